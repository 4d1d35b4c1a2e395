"""ZeRO-2: gradients go into DeepSpeed's buckets in one order, the same on every rank.

DeepSpeed (0.19.8) puts each gradient into its bucket when it comes, and adds the buckets of the
ranks up as they are. Where a forward's way follows the samples (packed sequences of other lengths,
layers in another order), gradients come in another order on each rank, and those of one parameter
were added to those of another, silently. Stage 1 goes through the parameters in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


class ArrivalOrder:
    """Holds gradients back until those before them have come. No method is collective by itself."""

    def __init__(self, zero_optimizer: Any, parameters: Sequence[nn.Parameter]) -> None:
        """Stand before DeepSpeed's buckets.

        Args:
            zero_optimizer: of stage 2.
            parameters: what is trained, in the model's order, the same on every rank. Gradients
                are handed over from the last to the first, about as they come.
        """
        self._parameters = tuple(reversed(parameters))
        self._come: dict[int, tuple[nn.Parameter, int]] = {}
        self._num_done = 0
        self._hand_over = zero_optimizer.reduce_ready_partitions_and_remove_grads
        self._end = zero_optimizer.independent_gradient_partition_epilogue
        zero_optimizer.reduce_ready_partitions_and_remove_grads = self._take
        zero_optimizer.independent_gradient_partition_epilogue = self._finish

    def begin(self) -> None:
        """Forget what a backward that was broken off has left."""
        self._come.clear()
        self._num_done = 0

    def _take(self, parameter: nn.Parameter, group: int) -> None:
        self._come[id(parameter)] = parameter, group
        while self._num_done < len(self._parameters):
            following = self._parameters[self._num_done]
            if following.requires_grad:
                if id(following) not in self._come:
                    return
                self._hand_over(*self._come.pop(id(following)))
            self._num_done += 1

    def _finish(self) -> None:
        """Hand over what waits for gradients that do not come, and have the buckets emptied."""
        for parameter in self._parameters:
            if (waiting := self._come.pop(id(parameter), None)) is not None:
                self._hand_over(*waiting)
        self._num_done = 0
        self._end()
