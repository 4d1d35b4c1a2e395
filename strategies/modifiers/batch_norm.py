"""Running statistics of BatchNorm and InstanceNorm, the same on any number of ranks.

torch moves them with every forward: r <- (1 - m) r + m s, where s are the statistics of the
micro-batch. Ranks see different micro-batches, so each rank would have statistics of its own. The
recursion is linear, and over the n micro-batches of a step

    r <- (1 - m)^n r + sum_i (1 - m)^(n - 1 - i) m s_i        (i: canonical number)

is what one rank that sees them all in order computes. Each rank adds up its own terms, and one sum
over the ranks completes them. Where a module is used u times in a micro-batch, (1 - m)^u stands in
place of (1 - m), and what the forward leaves in place of m s. A module in evaluation mode (frozen
statistics) is left alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeGuard

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..collectives.process_group import Ranks
from .buffer_watch import BufferWatch, sentence, sentence_of_plain
from .moving_buffers import MovingBuffers
from .moving_numbers import MovingNumbers
from .norm_statistics import NormStatistics
from .power_iterations import PowerIterations
from .recomputation import hold_buffers_in_recomputation

_OF_ALL_RANKS = (
    "the model has SyncBatchNorm, which normalises with what all ranks compute at once: the curve "
    "follows their number. With BatchNorm, GroupNorm or LayerNorm it does not"
)


class RunningStatistics:
    """Follows what a model's forward moves through the micro-batches of a step."""

    def __init__(
        self,
        model: nn.Module,
        ranks: Ranks,
        names: Collection[str] = (),
        *,
        exact: bool = False,
    ) -> None:
        """Take the model that is trained.

        Args:
            model: what the training loop calls; wrappers may stand around the user's.
            ranks: that compute together.
            names: of the user's persistent buffers that are watched in the first steps.
            exact: whether no bit may depend on the number of ranks.
        """
        self._ranks = ranks
        modules = [module for module in model.modules() if _is_tracking(module)]
        follows = any(isinstance(module, nn.SyncBatchNorm) for module in modules)
        self.notes = [_OF_ALL_RANKS] if follows else []
        """Sentences about modules whose results follow the number of ranks."""
        for module in model.modules():
            hold_buffers_in_recomputation(module)
        self._norms = NormStatistics(modules, ranks, exact=exact)
        self._vectors = PowerIterations(model, ranks.world_size)
        self._others = MovingBuffers(model)
        self._numbers = MovingNumbers(model)
        self._watch = BufferWatch(model, ranks, names, is_ordered=self._vectors.owns)
        # Ranks part, and come together again, where a later step uses a weight more often.
        self.apart = self._watch.ordered
        """Persistent buffers that ranks may hold each in their own way; the same on every rank."""

    def begin_step(self, count: int) -> None:
        """Remember where everything is; `count` micro-batches follow, over all ranks."""
        self._watch.begin_step()
        self._others.begin_step()
        self._vectors.begin_step(count)
        self._norms.begin_step()

    def begin_micro_batch(self, index: int, *, is_padding: bool) -> None:
        """Clear the live statistics, so that the forward leaves m s in them.

        Args:
            index: canonical number of the micro-batch in the step.
            is_padding: it is a repeat, which some rank has counted already.
        """
        self._numbers.begin_micro_batch()
        self._vectors.begin_micro_batch(index, is_padding=is_padding)
        self._norms.begin_micro_batch()

    def end_micro_batch(self, index: int, count: int, *, is_padding: bool) -> None:
        """Add what the forward left.

        Args:
            index: canonical number of the micro-batch in the step.
            count: micro-batches of the step, over all ranks.
            is_padding: it was a repeat, which some rank has counted already.
        """
        self._numbers.end_micro_batch()
        self._watch.end_micro_batch()
        self._vectors.end_micro_batch()
        self._norms.end_micro_batch(count - 1 - index, is_padding=is_padding)

    def end_step(self, count: int) -> list[str]:
        """Sum over the ranks and put what has moved in place. Called on every rank.

        Returns:
            Sentences about what follows the number of ranks, the same on every rank; the caller
            tells them.
        """
        self._vectors.end_step()
        self._others.end_step()
        self._norms.end_step(count)
        found = self._watch.end_step()
        self._others.learn(found.moved)
        self.apart |= frozenset(found.follow)
        sentences = [sentence(found.follow)] if found.follow else []
        sentences += [sentence_of_plain(found.plain)] if found.plain else []
        return sentences + self._numbers.end_step()

    def give_up(self) -> None:
        """Put everything back to where it was when the step began. No collective."""
        self._vectors.give_up()
        self._others.give_up()
        self._norms.give_up()


def _is_tracking(module: nn.Module) -> TypeGuard[_NormBase]:
    return isinstance(module, _NormBase) and module.running_mean is not None
