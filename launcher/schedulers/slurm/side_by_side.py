"""Several `srun relaunch` in one job: which one requeues the job, and when; pure.

[Note: a requeue ends every step of the job]
The first agent of a step asks for the requeue as its last action. Beside other steps it waits until
these have ended, or have left with a checkpoint and wait as well; of those that wait the one with
the lowest number asks, and the others leave. That a step waits must be seen from other nodes, so it
stands in Slurm's own record of the step: its time limit is the only field that its user may write.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

LEFT_MIN = 2_000_001
"""The time limit of a step whose ranks have left: years, so that it limits nothing."""
_LEFT = "1388-21:21:00"
"""The same, as Slurm writes it."""
_STEP = re.compile(
    r"^StepId=[\w+\[\]-]+\.(\d+) .*?\bTimeLimit=(\S+)\s+State=RUNNING\b", re.MULTILINE
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of the job that srun started."""

    number: int
    has_left: bool
    """Its ranks have left, and its agent waits for the other steps."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a step whose ranks have left does next. Without both fields: it asks for the requeue."""

    wait_for: tuple[int, ...] = ()
    """The steps that still work."""
    left_to: int | None = None
    """The step that asks in its place."""


def parse_steps(text: str) -> tuple[Step, ...]:
    """Read `scontrol show step JOB`; the batch step and those that wait for CPUs are left out."""
    return tuple(
        Step(number=int(number), has_left=limit == _LEFT) for number, limit in _STEP.findall(text)
    )


def turn_of(own: int, steps: Sequence[Step]) -> Turn:
    """Return whether a step whose ranks have left asks, waits or leaves it to another."""
    others = [step for step in steps if step.number != own]
    if at_work := tuple(sorted(step.number for step in others if not step.has_left)):
        return Turn(wait_for=at_work)
    first = min((step.number for step in others), default=own)
    return Turn(left_to=first) if first < own else Turn()


def waiting_text(key: str, turn: Turn) -> str:
    """Return what to say before the first wait."""
    return (
        f"{_steps(key, turn)} still running: the job goes back into the queue when they have ended."
    )


def no_time_text(key: str, turn: Turn) -> str:
    """Return what to say where other steps still run and the job's time is over."""
    return (
        f"{_steps(key, turn)} still running, but there is no time left to wait: "
        "putting the job back into the queue now, which ends them."
    )


def left_text(key: str, turn: Turn) -> str:
    """Return what to say where another step asks for the requeue."""
    return f"step {turn.left_to} of job {key}, which has left as well, puts the job back."


def _steps(key: str, turn: Turn) -> str:
    names = ", ".join(map(str, turn.wait_for))
    one = len(turn.wait_for) == 1
    return f"step{'' if one else 's'} {names} of job {key} {'is' if one else 'are'}"
