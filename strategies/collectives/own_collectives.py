"""Collectives that the script makes inside a step, such as the all_gather of a contrastive loss.

What they gather is of the micro-batches that the ranks compute at once, repeats for padding too:
the loss then follows the number of ranks, and where a step is short torch may end the process. It
is looked for once, in a start's first micro-batch, on one rank too.
"""

from __future__ import annotations

from ..torch_internals import collectives_so_far
from .process_group import Ranks

TOLD = (
    "the loop calls a collective of its own between a micro-batch and step.backward (such as "
    "torch.distributed.nn.all_gather). It sees the micro-batches that the ranks compute at once, "
    "so the loss and the curve depend on the number of ranks. For a loss over more samples, use a "
    "larger micro_batch, features kept from earlier micro-batches, or your own loop with "
    "launcher.Resumable and GlobalBatches, where a step is one batch over all ranks"
)


class OwnCollectives:
    """Counts the collectives of the ranks' common group during one micro-batch's forward.

    Args:
        ranks: whose group.
        forward_has_some: the strategy gathers parameters there itself, so that none can be
            distinguished from the script's.
    """

    def __init__(self, ranks: Ranks, *, forward_has_some: bool) -> None:
        self._ranks = ranks
        self._is_over = forward_has_some
        self._before: int | None = None

    def begin(self) -> None:
        """Count from here, once. Called before the batch is given out."""
        if not self._is_over:
            self._before = collectives_so_far(self._ranks.device)

    def note(self) -> str | None:
        """Return what is to be said, once. Called in step.backward."""
        if self._is_over or self._before is None:
            return None
        self._is_over = True
        now = collectives_so_far(self._ranks.device)
        return TOLD if now is not None and now > self._before else None
