"""Which checkpoints of a run may go. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from checkpointing import steps_to_delete


@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """What goes, in the order of deletion, and what stays for a reason."""

    checkpoints: tuple[int, ...]
    best: tuple[int, ...]
    reasons: tuple[str, ...]
    """Why something that is old stays."""


def plan_prune(
    references: Mapping[int, int | None],
    *,
    damaged: Sequence[int],
    best: Sequence[int],
    keep: int,
) -> PrunePlan:
    """Decide what goes.

    Args:
        references: For each step whose checkpoint opens, the best step that it refers to.
        damaged: Steps that do not open. They are not counted, and are a person's to delete.
        best: Steps of the weights kept beside, as the best.
        keep: How many of the newest stay, at least 1.

    Raises:
        ValueError: If keep is below 1.
    """
    leaving = steps_to_delete(references, keep=keep)
    staying = [step for step in references if step not in leaving]
    # What stays must find the best of its own past: beside, or else among the checkpoints.
    wanted = {found for step in staying if (found := references[step]) is not None}
    held = [step for step in leaving if step in wanted and step not in best]
    reasons = [f"step {step} stays: it is the best, and best/ has no copy of it" for step in held]
    reasons += [f"step {step} stays: it does not open, see verify" for step in damaged]
    going_best = [step for step in best if step not in wanted]
    if going_best and (damaged or not references):
        # What a damaged checkpoint refers to is unknown.
        reasons.append("everything in best/ stays: not every checkpoint says what it refers to")
        going_best = []
    return PrunePlan(
        checkpoints=tuple(step for step in leaving if step not in held),
        best=tuple(sorted(going_best)),
        reasons=tuple(reasons),
    )
