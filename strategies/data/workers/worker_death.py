"""Messages and decisions about loader workers that died. Pure."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class WorkerEnd:
    """One worker that ended though it had not been asked to."""

    number: int
    """As torch.utils.data.get_worker_info().id."""
    pid: int
    exit_code: int | None
    """Minus the signal where it was ended by one; None where it is not known."""

    def __str__(self) -> str:
        return f"loader worker {self.number} (pid {self.pid}) {how_it_ended(self.exit_code)}"


@dataclass(frozen=True, kw_only=True)
class Death:
    """What was seen when a loader's workers died."""

    ends: tuple[WorkerEnd, ...]
    """Empty where the connection to them broke, and none is known to have ended."""
    delivered: int
    """How many batches had been read before."""
    in_hand: tuple[int, ...]
    """The numbers of the batches that the dead had in hand, from the first of all."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.ends)) or "the connection to the loader workers broke"


def batches_of(
    workers: Sequence[int], *, num_workers: int, opened_at: int, delivered: int, num_drawn: int
) -> tuple[int, ...]:
    """Return which batches these workers had in hand: torch gives them out in turn.

    Args:
        workers: Their numbers.
        num_workers: How many there are.
        opened_at: The number of the first batch that the loader was asked for.
        delivered: How many batches have been read since the first of all.
        num_drawn: How many more are under way.
    """
    under_way = range(delivered, delivered + num_drawn)
    return tuple(one for one in under_way if (one - opened_at) % num_workers in workers)


def is_same_batch(before: Death | None, now: Death) -> bool:
    """Return whether the batch which ended a worker may be the one that has done so before."""
    if before is None:
        return False
    return before.delivered == now.delivered or bool(set(before.in_hand) & set(now.in_hand))


def how_it_ended(exit_code: int | None) -> str:
    """Return "was ended by SIGKILL" or "ended with exit code 3"."""
    if exit_code is None:
        return "ended"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"


def warning(death: Death) -> str:
    """Return the message of the first time."""
    return f"{death}. Its batches are read again by new workers."


def complaint(death: Death, suspect: Sequence[int]) -> str:
    """Return the message when it happens again at the same place.

    Args:
        death: The second.
        suspect: The samples of the first batch that the dead had in hand.
    """
    batch = f"the batch of the samples {_some(suspect)}" if suspect else "a batch"
    code = death.ends[0].exit_code if death.ends else None
    return (
        f"{death}, for the second time at {batch}. {_advice(code)} "
        "With workers=0 the rank reads by itself and shows where it fails."
    )


def _some(samples: Sequence[int]) -> str:
    shown = ", ".join(map(str, samples[:_SHOWN]))
    more = len(samples) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _advice(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return (
            "SIGKILL mostly means that there was no memory left: take fewer workers or smaller "
            "samples, or ask for more memory."
        )
    if exit_code == -signal.SIGBUS:
        return "SIGBUS mostly means that /dev/shm is full: make it larger, or take fewer workers."
    if exit_code is not None and exit_code < 0:
        return "Look at the library that decodes these samples, and at handlers of signals."
    return "Look for sys.exit and os._exit in what reads these samples, handlers included."
