"""Parameters of no dimension beside shards of rows: whole on every rank.

fully_shard cuts rows, and a number such as CLIP's logit_scale has none. The model keeps it as it
is; the optimizer, which takes all of its parameters together, is given a DTensor that has the same
memory on every rank. The gradient is summed here, once a step.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate


def without_dimension(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that have no rows to cut."""
    return {parameter for parameter in model.parameters() if parameter.ndim == 0}


class ScalarParameters:
    """A model's parameters of no dimension, once they have their values."""

    def __init__(self, model: nn.Module, mesh: DeviceMesh) -> None:
        self._mesh = mesh
        self._live = {name: p for name, p in model.named_parameters() if p.ndim == 0}
        self.owners = {name: self._owner(p) for name, p in self._live.items()}
        """By name, what the optimizer steps in place of each; changes with it."""
        self.leaves = {id(p): name for name, p in self._live.items() if p.requires_grad}
        """Names of those that are trained, by id()."""
        self._summed: torch.Tensor | None = None

    @property
    def named(self) -> list[tuple[str, nn.Parameter]]:
        """Each with its name, the same on every rank."""
        return list(self._live.items())

    def _owner(self, parameter: nn.Parameter) -> nn.Parameter:
        same = self._everywhere(parameter.detach())
        return nn.Parameter(same, requires_grad=parameter.requires_grad)

    def _everywhere(self, value: torch.Tensor) -> DTensor:
        placements = [Replicate()] * self._mesh.ndim
        return DTensor.from_local(value, self._mesh, placements, run_check=False)

    def reduce(self, held_back: Collection[str], world_size: int) -> None:
        """Give the owners their mean gradients over the ranks, as fully_shard does.

        Called on every rank, after the last backward.
        """
        trained = [
            (self._live[name], owner)
            for name, owner in self.owners.items()
            if owner.requires_grad and name not in held_back
        ]
        # On one rank a backward may leave a parameter out; on several that is refused.
        reached = [(p.grad, owner) for p, owner in trained if p.grad is not None]
        if not reached:
            return
        self._summed = torch.stack([grad for grad, _ in reached])
        if world_size > 1:
            dist.all_reduce(self._summed)
            self._summed /= world_size
        for one, (_, owner) in zip(self._summed.unbind(), reached, strict=True):
            owner.grad = self._everywhere(one)

    def forget(self) -> None:
        """Drop the gradients, after a step."""
        self._summed = None
        for parameter in self._live.values():
            parameter.grad = None

    def part(self, grads: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the gradients of shards, and those that every rank has whole."""
        if self._summed is None:
            return grads, []
        ours = self._summed.untyped_storage().data_ptr()
        shards = [g for g in grads if g.untyped_storage().data_ptr() != ours]
        return shards, [g for g in grads if g.untyped_storage().data_ptr() == ours]
