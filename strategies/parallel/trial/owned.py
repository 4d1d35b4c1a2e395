"""What one rank steps where some parameters are stepped whole, each by one rank."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import nn

from ..matrix.assignment import assign
from ..matrix.placeholder import placeholder
from .likeness import Factory, Likeness, made_quietly
from .stepping import NUM_RANKS, Part, Stepped

OWNED_RANKS = NUM_RANKS + 1
"""The last of them owns nothing and has no part of anything, as happens in a run of many ranks."""


class Owned(Stepped):
    """The parameters that one rank owns, whole, and its parts of those that are cut."""

    def __init__(
        self, factory: Factory, likeness: Likeness, rank: int, whole: frozenset[str]
    ) -> None:
        self._rank, self._whole = rank, whole
        self._parts: list[Part] = []
        super().__init__(factory, likeness)

    def _make(self, factory: Factory) -> torch.optim.Optimizer:
        chosen = {name: self.likeness.shapes[name] for name in self.likeness.chosen}
        owners = assign({n: s for n, s in chosen.items() if n in self._whole}, NUM_RANKS)
        named: dict[str, nn.Parameter] = {}
        for name, value in self.likeness.parameters().items():
            detached = value.detach()
            if name not in self._whole and name in chosen:
                start, end, piece = self._cut(detached)
                named[name] = nn.Parameter(piece.clone())
                if start < end:
                    self._parts.append(Part(name, start, end, named[name], 0))
            elif owners.get(name) == self._rank:
                named[name] = nn.Parameter(detached)
                self._parts.append(Part(name, 0, value.numel(), named[name], 0, is_whole=True))
            else:
                named[name] = nn.Parameter(placeholder(detached.shape, detached.device))
        return made_quietly(factory, named)

    @abstractmethod
    def _cut(self, value: torch.Tensor) -> tuple[int, int, torch.Tensor]:
        """Return elements [start, end) of a value, which this rank has, and these."""

    def parts(self) -> Iterator[Part]:
        """Yield what this rank has of the chosen parameters."""
        yield from self._parts


class OwnedOrRows(Owned):
    """Cut by rows, as torch's fully_shard cuts them."""

    def _cut(self, value: torch.Tensor) -> tuple[int, int, torch.Tensor]:
        if value.ndim == 0:  # whole on every rank
            return 0, 1, value
        each = -(-len(value) // NUM_RANKS)
        rows = value[self._rank * each : (self._rank + 1) * each]
        start = min(self._rank * each, len(value)) * torch.Size(value.shape[1:]).numel()
        return start, start + rows.numel(), rows


class OwnedOrFlat(Owned):
    """Cut into flat pieces, as DeepSpeed cuts them."""

    def _cut(self, value: torch.Tensor) -> tuple[int, int, torch.Tensor]:
        each = -(-value.numel() // NUM_RANKS)
        start = min(self._rank * each, value.numel())
        end = min(start + each, value.numel())
        return start, end, value.reshape(-1)[start:end]
