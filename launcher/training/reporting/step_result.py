"""What reports and savers see of a step that is done."""

from __future__ import annotations

from typing import Protocol

from strategies import Metrics, StepOutcome


class StepResult(Protocol):
    """A step at its boundary."""

    @property
    def number(self) -> int:
        """0-based number of this optimizer step."""

    @property
    def outcome(self) -> StepOutcome | None:
        """What the update came to."""

    @property
    def metrics(self) -> Metrics:
        """What was measured after it."""

    @property
    def seconds(self) -> float:
        """From the former boundary to this one."""

    @property
    def evaluation_s(self) -> float:
        """Of these, in evaluations."""

    @property
    def num_turns(self) -> int:
        """Micro-batches of this rank, with padding."""
