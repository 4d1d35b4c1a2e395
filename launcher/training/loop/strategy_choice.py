"""Choosing the strategy of a run if none was given."""

from __future__ import annotations

from typing import Any

from strategies import ConfigError, choose_strategy, samples_of
from strategies.data.reading.samples import IndexList, SampleReader
from strategies.data.reading.stacking import Unstackable
from strategies.data.seeding import kept_streams, training_samples

from ..context import RunContext
from ..recipe.recipe import Recipe

AUTO = "auto"


def settled_strategy(run: RunContext, recipe: Recipe) -> str:
    """Return the strategy's name; where "auto" was asked for, choose one and print the reason.

    Called on every rank.

    Raises:
        ConfigError: none fits.
    """
    if run.asked_strategy != AUTO:
        return run.asked_strategy
    run.heartbeat.beat()
    choice = choose_strategy(
        recipe.blueprint(run, AUTO),
        run.communicator,
        batch=lambda: first_batch(recipe, run.seed),
        forward=recipe.forward,
        accumulates=recipe.global_batch > recipe.micro_batch * run.ranks.world_size,
    )
    if choice.table:
        run.say(f"bytes on each rank, estimated:\n{choice.table}")
    run.say(f"--strategy auto chose {choice.strategy}: {choice.reason}")
    if run.ranks.is_coordinator:
        run.folder.event("strategy", chosen=choice.strategy, reason=choice.reason)
    return choice.strategy


def first_batch(recipe: Recipe, seed: int) -> Any:
    """Return a run's first collated micro-batch.

    Raises:
        ConfigError: its samples do not make one.
    """
    samples = samples_of(recipe.train)
    indices = list(range(min(recipe.micro_batch, len(samples))))
    asked = IndexList(indices=indices, stream=training_samples(seed, epoch=0))
    with kept_streams():
        batch = SampleReader(samples, recipe.collate).__getitems__(asked)
    if isinstance(batch, Unstackable):
        raise ConfigError(batch.sentence)
    return batch
