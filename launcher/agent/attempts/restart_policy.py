"""Whether the ranks are started again after an attempt has failed: one pure function.

What has failed before it got anywhere (an import, an option of the script) would fail again, and
so would what failed twice at the same place with the same error. Between attempts that end quickly
the launcher waits longer and longer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...contract.exit_codes import NEVER_RESTARTED

SETTLED_S = 30.0
"""A script that gives no heartbeat is taken to have got somewhere after this time."""
SHORT_S = 60.0
"""An attempt that lived less counts as a quick end."""
LONGEST_WAIT_S = 60.0

_CHANGING = re.compile(r"0x[0-9a-fA-F]+|\d+(\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class FailedAttempt:
    """What the decision needs to know about an attempt that has ended."""

    code: int
    """What the launcher would exit with."""
    lived_s: float
    gives_signs: bool
    """The script tells how far it is: it uses `Run` or `heartbeat.beat`."""
    step: int | None = None
    """The last step which any rank has finished in this attempt."""
    joined: bool = False
    """The ranks have met: their process group put something into the store."""
    error: str | None = None
    """The exception or the signal that ended the rank which failed first."""

    @property
    def progressed(self) -> bool:
        """Whether the attempt got anywhere.

        With signs of life: a step was finished. Without: the ranks formed their process group, so
        everything is imported and read, or they lived for SETTLED_S.
        """
        if self.gives_signs:
            return self.step is not None
        return self.joined or self.lived_s >= SETTLED_S

    @property
    def place(self) -> str | None:
        """Where it failed, as far as that is known."""
        if not self.progressed:
            return "before the first step" if self.gives_signs else "at the start"
        return None if self.step is None else f"after step {self.step}"


@dataclass(frozen=True, kw_only=True)
class RestartDecision:
    """What to do after an attempt."""

    restart: bool
    wait_s: float = 0.0
    """How long to wait before it."""
    reason: str = ""
    """Why there is none, where that needs saying."""


def verdict(
    history: Sequence[FailedAttempt], *, max_restarts: int, warned: bool
) -> RestartDecision:
    """Decide from the attempts so far, the last one included.

    Args:
        history: At least one attempt; the earliest first.
        max_restarts: How often the ranks may be started again.
        warned: The run was asked to end meanwhile.
    """
    last = history[-1]
    if warned or last.code in NEVER_RESTARTED or max_restarts == 0:
        return RestartDecision(restart=False)
    if not any(attempt.progressed for attempt in history):
        what = "its first step" if last.gives_signs else "the ranks met"
        return RestartDecision(
            restart=False,
            reason=f"not restarting: it failed before {what}, and would fail again.",
        )
    if len(history) > max_restarts:
        return RestartDecision(restart=False, reason=f"--max-restarts {max_restarts} is used up.")
    if len(history) > 1 and _same_failure(history[-2], last):
        return RestartDecision(
            restart=False,
            reason=f"not restarting: it failed twice {last.place} with the same error.",
        )
    return RestartDecision(restart=True, wait_s=_wait_s(history))


def _same_failure(one: FailedAttempt, other: FailedAttempt) -> bool:
    if one.place is None or one.error is None or other.error is None:
        return False
    # Addresses, ports and times differ from one attempt to the next.
    same_error = _CHANGING.sub("#", one.error) == _CHANGING.sub("#", other.error)
    return one.place == other.place and same_error


def _wait_s(history: Sequence[FailedAttempt]) -> float:
    """Nothing after the first quick end in a row, then 1 s, 2 s, 4 s, ... up to LONGEST_WAIT_S."""
    num_quick = 0
    for attempt in reversed(history):
        if attempt.lived_s >= SHORT_S:
            break
        num_quick += 1
    return 0.0 if num_quick < 2 else min(LONGEST_WAIT_S, 2.0 ** min(num_quick - 2, 10))
