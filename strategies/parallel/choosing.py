"""`--strategy auto`: measured once, decided on all ranks alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from ..process_group import HostCommunicator
from .available import available_bytes
from .build_options import BY_NAME
from .estimate import Choice, choose
from .measure import Forward, measure_model
from .need import ModelSizes
from .protocol import Blueprint


def choose_strategy(
    blueprint: Blueprint,
    communicator: HostCommunicator,
    *,
    batch: Callable[[], Any],
    forward: Forward | None,
    accumulates: bool = True,
) -> Choice:
    """Return the simplest strategy that fits on every rank. Called on every rank.

    Args:
        blueprint: of the run.
        communicator: the host's group; what decides goes through it.
        batch: returns one collated micro-batch; called on the coordinator.
        forward: how the model is called with it; None: found by trying.
        accumulates: whether a rank has more than one micro-batch in a step.

    Raises:
        ConfigError: on every rank, when none fits.
    """
    ranks, options = blueprint.ranks, blueprint.options
    able = options.strategies()
    guess = _guess(able, ranks.world_size)
    if ranks.world_size == 1 and "single" not in able:
        # It refuses what is asked in its own words.
        return Choice(strategy=guess, reason="there is one rank", table="")
    free: list[Any] = communicator.all_gather(
        available_bytes(ranks.device, options.local_world_size)
    )
    if None in free:
        reason = f"the memory of rank {free.index(None)} is not known; this is a guess"
        return Choice(strategy=guess, reason=reason, table="")
    measured: Any = communicator.broadcast(
        _measured(blueprint, batch, forward, accumulates) if ranks.is_coordinator else None
    )
    if isinstance(measured, str):
        # Stated, because it is a guess: the strategy that needs the least of a model.
        reason = f"NOTHING could be measured ({measured}); this is a guess, name a --strategy"
        return Choice(strategy=guess, reason=reason, table="")
    hybrid = options.hybrid_shard
    return choose(
        ModelSizes(**measured),
        able,
        ranks=ranks.world_size,
        shards=options.local_world_size if hybrid else ranks.world_size,
        by_name=options.init == BY_NAME,
        memory_bytes=min(free),
    )


def _guess(able: Sequence[str], ranks: int) -> str:
    if ranks == 1:
        return "single"
    return "ddp" if "ddp" in able else able[0]


def _measured(
    blueprint: Blueprint, batch: Callable[[], Any], forward: Forward | None, accumulates: bool
) -> dict[str, int | None] | str:
    try:
        return asdict(measure_model(blueprint, batch(), forward, accumulates=accumulates))
    except Exception as error:  # Whatever a factory raises where there is no memory.
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
