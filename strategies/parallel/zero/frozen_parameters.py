"""Parameters that are not trained, under ZeRO, in the precision in which they were built."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from checkpointing import Fragment

from ..catalogue import Catalogue
from ..state.optimizer_state import copy_flat, flat, fragment_of
from ..state.replicated_state import striped
from ..state.saved_state import TensorSource
from .internals import Stage3, Stage12


class FrozenParameters:
    """Reads and writes them; keeps a copy on the host only where the engine rounds them."""

    def __init__(
        self,
        layout: Stage12 | Stage3,
        model: nn.Module,
        catalogue: Catalogue,
        initial: Mapping[str, torch.Tensor],
    ) -> None:
        self._layout = layout
        self._specs = catalogue.frozen
        self._live = {n: p for n, p in model.named_parameters() if n in catalogue.frozen}
        self._exact = {
            name: initial[name] for name, p in self._live.items() if p.dtype != initial[name].dtype
        }

    def fragments(self, rank: int, world_size: int) -> list[Fragment]:
        """Return this rank's share. No collective."""
        if isinstance(self._layout, Stage12):
            whole = [(spec, self._values(name)) for name, spec in self._specs.items()]
            return striped(whole, rank, world_size)
        found = []
        for name, spec in self._specs.items():
            start, end, shard = self._layout.frozen_range(self._live[name])
            values = self._exact[name][start:end] if name in self._exact else shard
            if start < end:
                found.append(fragment_of(spec, start, end, values))
        return found

    def load(self, source: TensorSource) -> None:
        """Read this rank's share into the live parameters. Called on every rank."""
        for name, spec in self._specs.items():
            if isinstance(self._layout, Stage12):
                start, end, target = 0, spec.numel, self._live[name].data
                values = source.read_whole(name, spec.key, spec.numel)
            else:
                start, end, target = self._layout.frozen_range(self._live[name])
                values = source.read(name, spec.key, start, end)
            copy_flat(target, values)
            if name in self._exact:
                self._exact[name][start:end].copy_(values)

    def _values(self, name: str) -> torch.Tensor:
        return self._exact[name] if name in self._exact else flat(self._live[name])
