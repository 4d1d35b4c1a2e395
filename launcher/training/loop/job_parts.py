"""What a job is made of, built once in `run.prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from checkpointing import JSON
from strategies import (
    BatchPlan,
    Boundary,
    MapDataset,
    Rates,
    RunningStatistics,
    Strategy,
    TransformersNames,
    Unfreezing,
    current_hyperparameters,
    samples_of,
    strategy_class,
)
from strategies.data.workers.sockets import require_sockets
from strategies.modifiers.loop_attributes import LoopAttributes
from strategies.torch_internals import watch_compiling

from ..context import RunContext
from ..recipe.asked import agreed_asked
from ..recipe.first_samples import agreed_samples
from ..recipe.interval import Every
from ..recipe.recipe import NAME, Recipe
from ..reporting.run_log import RunLog
from ..run_state import common_to_ranks
from ..saving.checkpointer import Checkpointer
from ..saving.model_config import ExportedModel, WithConfig
from ..saving.save_at_boundary import SaveAtBoundary
from .evaluation_rules import EvaluationRules
from .strategy_choice import settled_strategy

if TYPE_CHECKING:
    from strategies.data.streams.own_position import OwnPosition


@dataclass(frozen=True, kw_only=True)
class JobParts:
    """The parts of a job; those that change do so by themselves."""

    train: MapDataset
    samples: Mapping[str, JSON]
    """Digests of the training data; empty: of a stream."""
    asked: Mapping[str, JSON]
    """What the script asks for that shapes the curve."""
    own_position: OwnPosition | None
    """The training data, where it keeps its position itself."""
    plan: BatchPlan
    strategy: Strategy
    statistics: RunningStatistics
    unfreezing: Unfreezing
    attributes: LoopAttributes
    rules: EvaluationRules
    rates: Rates
    evaluate_every: Every
    boundary: Boundary
    checkpointer: Checkpointer
    log: RunLog
    saver: SaveAtBoundary
    exported: ExportedModel
    """Of a model that has a `config`, as JSON."""
    model_names: TransformersNames | None
    """How a model of transformers is named in files."""


def build_parts(run: RunContext, recipe: Recipe) -> JobParts:
    """Build the model under the run's strategy, and what goes with it. Called on every rank.

    Raises:
        ConfigError: something in the recipe cannot work.
    """
    require_sockets(recipe.workers)
    train = samples_of(recipe.train)
    plan = recipe.plan(train, run.seed)
    own_position = recipe.own_position(run)
    samples = agreed_samples(run, recipe, train)
    evaluate_every, save_every = recipe.intervals(plan.steps_per_epoch)
    model, strategy = _build_strategy(run, recipe)
    statistics = RunningStatistics(
        strategy.module, run.ranks, strategy.catalogue.buffers, exact=strategy.options.exact
    )
    checkpointer = _checkpointer(run, recipe, plan, strategy, own_position)
    rules = EvaluationRules(stop=recipe.stop, plateau=recipe.plateau)
    rates = recipe.rates(strategy.param_groups, plan)
    unfreezing = Unfreezing(
        recipe.unfreeze, strategy.catalogue.trainable, strategy.catalogue.frozen
    )
    for note in (*statistics.notes, *rates.notes, *unfreezing.notes):
        run.warn(f"{note}.")
    common = common_to_ranks(
        plan,
        strategy=strategy.name,
        precision=run.precision.name,
        schedule=rates.text,
        rules=repr(rules),
    )
    log = RunLog(run, recipe, plan, save_every, strategy.name)
    return JobParts(
        train=train,
        samples=samples,
        asked=agreed_asked(run, recipe, model.layers),
        own_position=own_position,
        plan=plan,
        strategy=strategy,
        statistics=statistics,
        unfreezing=unfreezing,
        attributes=LoopAttributes(strategy.module),
        rules=rules,
        rates=rates,
        evaluate_every=evaluate_every,
        boundary=Boundary(run.ranks, common),
        checkpointer=checkpointer,
        log=log,
        saver=SaveAtBoundary(run, checkpointer, log, save_every),
        exported=model.exported,
        model_names=model.names,
    )


def _checkpointer(
    run: RunContext,
    recipe: Recipe,
    plan: BatchPlan,
    strategy: Strategy,
    own_position: OwnPosition | None,
) -> Checkpointer:
    return Checkpointer(
        run,
        strategy,
        strategy_name=strategy.name,
        retention=recipe.retention(plan.steps_per_epoch),
        requested=current_hyperparameters(strategy.param_groups),
        objects=recipe.objects,
        own_position=own_position,
        names_frozen=recipe.frozen == NAME,
    )


def _build_strategy(run: RunContext, recipe: Recipe) -> tuple[WithConfig, Strategy]:
    """Settle which strategy it is, and build the model under it. Called on every rank."""
    name = settled_strategy(run, recipe)
    run.before_first_step.leave_if_asked()
    blueprint = recipe.blueprint(run, name)
    model = WithConfig(blueprint.model, reads_files=recipe.weights is not None)
    strategy = strategy_class(name)(replace(blueprint, model=model))
    if strategy.options.compile_blocks:
        watch_compiling(run.heartbeat.beat)
    return model, strategy
