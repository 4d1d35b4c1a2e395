"""Which checkpoints are pruned. Pure; `CheckpointStore.delete` deletes, after a commit."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints are kept: those that at least one of the rules keeps.

    Raises:
        ValueError: If a number is too small.
    """

    keep: int
    """Number of newest checkpoints, at least 1."""

    keep_every_steps: int | None = None
    """The first checkpoint of each interval of this many steps, permanently; None: none."""

    keep_best: int = 0
    """Number of checkpoints with the lowest scores."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(
                f"keep={self.keep} would delete the checkpoint just saved. Pass at least 1."
            )
        if self.keep_every_steps is not None and self.keep_every_steps < 1:
            raise ValueError(f"keep_every={self.keep_every_steps} steps must be at least 1.")
        if self.keep_best < 0:
            raise ValueError(f"keep_best={self.keep_best} must not be negative.")


def steps_to_delete(
    steps: Collection[int],
    retention: Retention,
    *,
    scores: Mapping[int, float] | None = None,
    protected: Collection[int] = (),
) -> list[int]:
    """Return the steps to delete, oldest first.

    What is kept now is kept by every later call, except the newest and the best, which newer ones
    replace.

    Args:
        steps: Those of the complete checkpoints, in any order.
        retention: The rules.
        scores: Of the steps that have one; lower is better. Of equal ones the older is kept.
        protected: Steps that are kept in any case (pinned, or the one resumed from).
    """
    ordered = sorted(set(steps))
    known = {step: score for step, score in (scores or {}).items() if step in ordered}
    best = sorted(known, key=lambda step: (known[step], step))[: retention.keep_best]
    staying = {*ordered[-retention.keep :], *protected, *best}
    if retention.keep_every_steps is not None:
        staying |= _milestones(ordered, retention.keep_every_steps)
    return [step for step in ordered if step not in staying]


def _milestones(ordered: list[int], every_steps: int) -> set[int]:
    """Return the first step at or after each multiple: saves by the clock rarely hit one."""
    first: dict[int, int] = {}
    for step in ordered:
        if step >= every_steps:
            first.setdefault(step // every_steps, step)
    return set(first.values())
