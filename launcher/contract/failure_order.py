"""Which of several failures came first, though a failure takes its peers with it: pure.

A rank that fails closes its connections long before its process is gone, so that a peer's
collective fails and the peer may be gone earlier. What counts is when each one failed, as exactly
as that is known: a rank that says so itself tells the moment; of any other it is only known between
which two looks at the ranks it ended.
"""

import enum
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Kind(enum.IntEnum):
    """How something failed; the smaller, the more likely the cause of what fails beside it."""

    KILLED = 0
    """By SIGKILL, which only the kernel or a person sends."""
    SIGNAL = 1
    """By another signal."""
    NOTICE = 2
    """By one of the signals that ask a run to leave; nothing in it handled that."""
    SENTENCE = 3
    """It left with a mistake of the user's."""
    EXIT = 4
    """It left with an exit code and without a word."""
    EXCEPTION = 5
    """It reported what it failed with, as all do whose peer is gone."""
    PEER = 6
    """It reported that a peer is gone, in the words of what connects the ranks."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failure: it came after one moment of a clock and not after another, in seconds."""

    earliest_s: float
    latest_s: float
    kind: Kind

    def since(self, start_s: float) -> "Failure":
        """Return it with its moments counted from another one."""
        earliest_s, latest_s = self.earliest_s - start_s, self.latest_s - start_s
        return replace(self, earliest_s=earliest_s, latest_s=latest_s)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Failure":
        """Read what `dataclasses.asdict` gave; raises ValueError, TypeError or KeyError."""
        return cls(**{**content, "kind": Kind(content["kind"])})


def follows(failure: Failure, left_s: float | None, *, tolerance_s: float = 0.0) -> bool:
    """Return whether something failed only since the run was being left, all of it saved; pure.

    Args:
        failure: Of one clock with `left_s`.
        left_s: When the first rank left to be continued; None: none has.
        tolerance_s: How far the clocks may be apart.
    """
    if left_s is None:
        return False
    is_later = failure.latest_s + tolerance_s >= left_s
    return failure.kind is Kind.NOTICE or (failure.kind is Kind.PEER and is_later)


def first_of(failures: Mapping[Key, Failure], *, tolerance_s: float = 0.0) -> Key | None:
    """Return the key of the failure that is the cause; None where there is none.

    Suspects are all that may have come before the first one that is certain to have come. If these
    are exceptions only, one that was killed is suspect too: the kernel takes its time to free the
    memory and the devices of a process, long after its peers have noticed.

    Args:
        failures: Of one clock.
        tolerance_s: How far the clocks may be apart; within it the kind decides.
    """
    certain_s = min((f.latest_s for f in failures.values()), default=0.0) + tolerance_s
    suspects = {
        key: f for key, f in failures.items() if f.earliest_s < certain_s or f.latest_s <= certain_s
    }
    if all(f.kind >= Kind.EXCEPTION for f in suspects.values()):
        suspects |= {key: f for key, f in failures.items() if f.kind is Kind.KILLED}
    return min(
        suspects, key=lambda key: (suspects[key].kind, suspects[key].earliest_s), default=None
    )
