"""The start of the training loop: from the newest checkpoint, given weights, or step 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from strategies import load_weights
from strategies.state.base_weights import base_of, require_same_base
from strategies.state.named_weights import files_given

from ..context import RunContext
from ..recipe.asked import changes_of_asked
from ..recipe.first_samples import changed_samples
from ..recipe.recipe import NAME, Recipe
from ..run_state import RunState, plan_changes
from .job_parts import JobParts


def resume(run: RunContext, recipe: Recipe, parts: JobParts, state: RunState) -> RunState:
    """Load the newest checkpoint; return the state to continue from. Called on every rank.

    Args:
        run: the start.
        recipe: what the script asks for.
        parts: of the job; the strategy gets the weights.
        state: of a run that has not begun.

    Raises:
        ConfigError: the checkpoint belongs to another run, or the weights to another model.
    """
    parts.checkpointer.look_for_weights(files_given(recipe.weights))
    restored = parts.checkpointer.restore()
    if restored is not None:
        state = state.restored(restored.state, parts.plan, where=run.folder.path)
        require_same_base(state.base, recipe.weights, run.communicator, run.folder.path)
        plan = replace(parts.plan, jumps=state.jumps)
        changes = plan_changes(restored.state, plan, parts.rates.text)
        changes += changes_of_asked(state.asked, parts.asked)
        state, by_rules = parts.rules.resumed(state)
        if recipe.ema is None:
            parts.strategy.forget_average()
        if (other_data := changed_samples(state.samples, parts.samples)) is not None:
            run.warn(other_data)
        parts.log.restored(restored, [*restored.changes, *changes, *by_rules], recipe.objects)
    elif recipe.weights is not None:
        path = Path(recipe.weights)
        load_weights(parts.strategy, path, run.communicator, parts.model_names)
        if parts.strategy.catalogue.frozen:
            state = replace(state, base=base_of(path, run.communicator))
        parts.log.took_weights(recipe.weights)
    known = {name: value for name, value in parts.samples.items() if value is not None}
    state = replace(state, samples={**state.samples, **known}, asked=parts.asked)
    if recipe.frozen == NAME and recipe.weights is not None:
        named = parts.checkpointer.name_frozen(Path(recipe.weights), parts.model_names)
        parts.log.named_weights(named, parts.strategy.catalogue.frozen.values())
    if run.ranks.is_coordinator:
        parts.saver.clock.remember(run.past_events)
    parts.log.started(parts.strategy, state.step, restored)
    return state
