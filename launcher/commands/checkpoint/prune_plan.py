"""Which checkpoints of a run may go. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from checkpointing import Retention, steps_to_delete


@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """What is deleted, in this order, and what is kept for a reason."""

    checkpoints: tuple[int, ...]
    best: tuple[int, ...]
    reasons: tuple[str, ...]
    """Why something that is old stays."""


def plan_prune(
    references: Mapping[int, int | None],
    *,
    damaged: Sequence[int],
    best: Sequence[int],
    retention: Retention,
    scores: Mapping[int, float],
    protected: Mapping[int, str],
) -> PrunePlan:
    """Decide what goes.

    Args:
        references: For each step whose checkpoint opens, the best step that it refers to.
        damaged: Steps that do not open. They are not counted, and are a person's to delete.
        best: Steps of the weights kept beside, as the best.
        retention: The rules.
        scores: How good a step is, where that is known; lower is better.
        protected: Steps that stay in any case, and why.
    """
    leaving = steps_to_delete(references, retention, scores=scores, protected=protected)
    staying = [step for step in references if step not in leaving]
    # What stays must find the best of its own past: beside, or else among the checkpoints.
    wanted = {found for step in staying if (found := references[step]) is not None}
    held = [step for step in leaving if step in wanted and step not in best]
    reasons = [f"step {step} stays: it is the best, and best/ has no copy of it" for step in held]
    unprotected = steps_to_delete(references, retention, scores=scores)
    reasons += [
        f"step {step} stays: {protected[step]}" for step in unprotected if step in protected
    ]
    reasons += [f"step {step} stays: it does not open, see verify" for step in damaged]
    going_best = [step for step in best if step not in wanted]
    if going_best and (damaged or not references):
        # What a damaged checkpoint refers to is unknown.
        reasons.append(
            "everything in best/ is kept: not every checkpoint records which weights it refers to"
        )
        going_best = []
    return PrunePlan(
        checkpoints=tuple(step for step in leaving if step not in held),
        best=tuple(sorted(going_best)),
        reasons=tuple(reasons),
    )
