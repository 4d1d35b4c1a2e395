"""Which checkpoints may go. Pure; deleting is `CheckpointStore.delete`, after a commit."""

from collections.abc import Collection


def steps_to_delete(
    steps: Collection[int], *, keep: int, protected: Collection[int] = ()
) -> list[int]:
    """Return the steps that retention gives up, oldest first.

    Args:
        steps: Those of the complete checkpoints, in any order.
        keep: How many of the newest stay, at least 1.
        protected: Steps that stay in any case (the best one, the one resumed from).

    Raises:
        ValueError: If keep is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} would delete the checkpoint just saved. Pass at least 1.")
    return [step for step in sorted(set(steps))[:-keep] if step not in protected]
