"""`--strategy auto`: measured once, decided on all ranks alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from ...collectives.process_group import HostCommunicator, Ranks
from ...errors import ConfigError
from ..build_options import BY_NAME, BuildOptions
from ..strategy import Blueprint
from ..zero.required import OLDEST, STRATEGIES, installed, trouble
from .available import available_bytes
from .estimate import Choice, Wishes, choose
from .measure import Forward, measure_model
from .memory_model import ModelSizes, Spread


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
        ConfigError: on every rank, when none fits, or when there is nothing to offload to.
    """
    ranks, options = blueprint.ranks, blueprint.options
    troubles: list[Any] = communicator.all_gather(trouble(installed()))
    missing = not_installed(troubles)
    able = [strategy for strategy in options.strategies() if strategy not in missing]
    alone = ranks.world_size == 1
    if options.offload:
        options.require(able[0], ranks.device.type)
    elif alone and "single" not in able:
        # It refuses what is asked in its own words.
        return Choice(strategy="single", reason="there is one rank", table="")
    guess = _guess(able, alone=alone)
    free: list[Any] = communicator.all_gather(_free(ranks.device, options.local_world_size))
    devices, hosts = [one["device"] for one in free], [one["host"] for one in free]
    if None in devices:
        reason = f"the memory of rank {devices.index(None)} is not known; this is a guess"
        return Choice(strategy=guess, reason=reason, table="")
    measured: Any = communicator.broadcast(
        _measured(blueprint, batch, forward, accumulates) if ranks.is_coordinator else None
    )
    if isinstance(measured, str):
        # Stated, because it is a guess: the strategy that needs the least of a model.
        reason = f"NOTHING could be measured ({measured}); this is a guess, name a --strategy"
        return Choice(strategy=guess, reason=reason, table="")
    return choose(
        ModelSizes(**measured),
        _wishes(options, missing, ranks.device.type),
        _spread(ranks, options),
        memory_bytes=min(devices),
        host_bytes=None if None in hosts else min(hosts),
    )


def plan_strategy(
    blueprint: Blueprint,
    *,
    batch: Any,
    forward: Forward | None,
    accumulates: bool,
    memory_bytes: int,
    only: str | None = None,
) -> tuple[Choice, ModelSizes]:
    """Return what would be chosen on machines that are not there, and what was measured.

    No collective: `blueprint.ranks` says how many ranks there would be, and on which device.

    Args:
        blueprint: of the run.
        batch: one collated micro-batch.
        forward: see `choose_strategy`.
        accumulates: whether a rank would have more than one micro-batch in a step.
        memory_bytes: of a rank's device.
        only: the one strategy that is asked for; None: any.

    Raises:
        ConfigError: none fits, or nothing could be measured.
    """
    ranks, options = blueprint.ranks, blueprint.options
    measured = _measured(blueprint, lambda: batch, forward, accumulates)
    if isinstance(measured, str):
        raise ConfigError(
            f"nothing could be measured ({measured}): the model is built and called once without "
            "memory. Pass forward= to run.prepare, or build the model without looking at values."
        )
    sizes: Any = measured
    missing = not_installed([trouble(installed())])
    if only is not None:
        if only not in options.strategies():
            options.require(only, ranks.device.type)
        others = [name for name in options.strategies() if name != only]
        missing |= dict.fromkeys(others, f"only {only} is asked for")
    choice = choose(
        ModelSizes(**sizes),
        _wishes(options, missing, ranks.device.type),
        _spread(ranks, options),
        memory_bytes=memory_bytes,
    )
    return choice, ModelSizes(**sizes)


def _spread(ranks: Ranks, options: BuildOptions) -> Spread:
    return Spread(
        ranks=ranks.world_size,
        shards=options.local_world_size if options.hybrid_shard else ranks.world_size,
        by_name=options.init == BY_NAME,
    )


def not_installed(troubles: Sequence[str | None]) -> dict[str, str]:
    """Return the strategies whose package some rank lacks, and the sentence why. Pure.

    Args:
        troubles: of each rank, why it cannot use DeepSpeed; None: it can.
    """
    first = next(((rank, why) for rank, why in enumerate(troubles) if why is not None), None)
    if first is None:
        return {}
    where = "" if len(set(troubles)) == 1 else f" on rank {first[0]}"
    sentence = f"it needs DeepSpeed {OLDEST} or newer; {first[1]}{where}"
    return dict.fromkeys(STRATEGIES, sentence)


def _free(device: torch.device, local_world_size: int) -> dict[str, int | None]:
    host = torch.device("cpu")
    return {
        "device": available_bytes(device, local_world_size),
        "host": available_bytes(host, local_world_size),
    }


def _wishes(options: BuildOptions, missing: Mapping[str, str], device_type: str) -> Wishes:
    def able(asked: BuildOptions) -> list[str]:
        return [strategy for strategy in asked.strategies() if strategy not in missing]

    on_host = device_type == "cpu"
    return Wishes(
        able=able(options),
        left_out={**options.left_out(), **missing},
        offload=options.offload,
        able_offloaded=() if on_host else able(replace(options, offload=True)),
    )


def _guess(able: Sequence[str], *, alone: bool) -> str:
    simplest = "single" if alone else "ddp"
    return simplest if simplest in able else able[0]


def _measured(
    blueprint: Blueprint, batch: Callable[[], Any], forward: Forward | None, accumulates: bool
) -> dict[str, int | None] | str:
    try:
        return asdict(measure_model(blueprint, batch(), forward, accumulates=accumulates))
    except Exception as error:  # Whatever a factory raises where there is no memory.
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
