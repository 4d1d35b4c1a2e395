"""In which order DistributedDataParallel's buckets hold the gradients, kept from start to start.

DDP sums all gradients of its first step in one bucket, and from then on in buckets in the order in
which that backward made them. Of three ranks and more a collective adds the elements of a bucket in
an order that follows from their place in it. So a start that resumes would add its first step in
another order than the run that nobody disturbed, which has its buckets already: the last bits of
that step would differ. Here the order is kept in the checkpoint, and the buckets are laid in it
before the first step of a start that resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch.nn.parallel import DistributedDataParallel

from ...torch_internals import lay_buckets

FEWEST_RANKS = 3
"""Two numbers have one sum, whichever is first."""


class BucketOrder:
    """Of one replica's wrapper; notes the order in the first backward that is summed."""

    def __init__(self, wrapper: DistributedDataParallel) -> None:
        self._wrapper = wrapper
        left_out = set(wrapper.parameters_to_ignore)
        self._parameters = {
            name: parameter
            for name, parameter in wrapper.module.named_parameters()
            if parameter.requires_grad and name not in left_out
        }
        self.names: list[str] = []
        """Of the parameters, as far as it is known: the first is made first."""
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._note, name))
            for name, parameter in self._parameters.items()
        ]

    def _note(self, name: str, _: torch.Tensor) -> None:
        if self._wrapper.require_backward_grad_sync and name not in self.names:
            self.names.append(name)
            if len(self.names) == len(self._parameters):
                self._let_be()

    def _let_be(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def lay(self, names: Sequence[str]) -> None:
        """Lay the buckets as a run has left them. Called on every rank, before its first step.

        Sums zeros over the ranks once. Where a backward has laid them already, the names are not
        those of this model, or its script sums gradients in a way of its own, nothing is done.
        """
        wrapper = self._wrapper
        is_own = wrapper.static_graph or wrapper.find_unused_parameters
        if is_own or self.names or getattr(wrapper, "_comm_hooks", ()):
            return
        if {*names} != {*self._parameters}:
            return
        self._let_be()
        if any(map(_has_hooks, self._parameters.values())):
            return  # the script steps where a gradient comes: zeros are none for it
        self.names = list(names)
        lay_buckets(wrapper, [self._parameters[name] for name in names])


def _has_hooks(parameter: torch.Tensor) -> bool:
    return bool(getattr(parameter, "_post_accumulate_grad_hooks", None))


def orders_of(
    wrappers: Sequence[DistributedDataParallel | None], world_size: int
) -> list[BucketOrder]:
    """Return what keeps the order of each wrapper, where it matters."""
    if world_size < FEWEST_RANKS:
        return []
    return [BucketOrder(wrapper) for wrapper in wrappers if wrapper is not None]
