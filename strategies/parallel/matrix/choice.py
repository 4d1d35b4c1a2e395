"""How parameters are stepped: the same on every rank, and printed at the start."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from checkpointing import JSON

from ...collectives.process_group import HostCommunicator, Ranks
from ...errors import ConfigError


def require_same_choice(whole: Collection[str] | None, ranks: Ranks) -> None:
    """Refuse ranks on which the trial of the optimizer has come out differently. On every rank.

    Args:
        whole: names of the parameters that are to be stepped whole; None: none is.
        ranks: all of the run.

    Raises:
        ConfigError: on every rank, naming one that differs from rank 0.
    """
    if ranks.world_size == 1:
        return
    own = cast(JSON, None if whole is None else sorted(whole))
    first, *others = HostCommunicator(ranks).all_gather(own)
    for rank, found in enumerate(others, 1):
        if found != first:
            raise ConfigError(
                "the optimizer, tried on small parameters before the training, does the same where "
                f"parameters are cut on some ranks and not on others (0 and {rank} differ). Its "
                "function must not depend on the rank; on nodes with different processors, use "
                "--strategy ddp."
            )


def how_stepped(optimizer: str, num_whole: int, num_parameters: int) -> str:
    """Return the line of the start table on how the optimizer's parameters are stepped."""
    if not num_whole:
        return f"{optimizer} steps plain parts of the parameters"
    rest, what = num_parameters - num_whole, "parameter" if num_whole == 1 else "parameters"
    beside = f", and {rest} in parts" if rest else ""
    return f"{optimizer} steps {num_whole} {what} whole, each on one rank{beside}"
