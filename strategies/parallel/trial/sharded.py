"""The optimizer on parameters that torch's fully_shard has sharded, over the run's own ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import Placement, Replicate

from ...torch_internals import dtensor_of
from .likeness import Factory, Likeness, made_quietly
from .stepping import Part, Stepped


class Sharded(Stepped):
    """This rank's rows, as the DTensors that an optimizer gets. Its steps are for all ranks."""

    def __init__(
        self,
        factory: Factory,
        likeness: Likeness,
        mesh: DeviceMesh,
        placements: Sequence[Placement],
    ) -> None:
        self._mesh, self._placements = mesh, placements
        self._starts: dict[str, int] = {}
        super().__init__(factory, likeness)

    def _make(self, factory: Factory) -> torch.optim.Optimizer:
        self._named = {}
        for name, whole in self.likeness.parameters().items():
            self._named[name] = nn.Parameter(self._rows(name, whole.detach()))
        return made_quietly(factory, self._named)

    def _rows(self, name: str, whole: torch.Tensor) -> DTensor:
        if whole.ndim == 0:
            self._starts[name] = 0
            everywhere = [Replicate()] * self._mesh.ndim
            return dtensor_of(whole.clone(), self._mesh, everywhere, like=whole)
        shape, offset = compute_local_shape_and_global_offset(
            whole.shape, self._mesh, self._placements
        )
        first = min(offset[0], len(whole))
        self._starts[name] = first * torch.Size(whole.shape[1:]).numel()
        rows = whole[first : first + shape[0]].clone()
        return dtensor_of(rows, self._mesh, self._placements, like=whole)

    def parts(self) -> Iterator[Part]:
        """Yield this rank's rows of the chosen parameters."""
        for name in self.likeness.chosen:
            owner, start = self._named[name], self._starts[name]
            assert isinstance(owner, DTensor)
            yield Part(name, start, start + owner.to_local().numel(), owner, 0)
