"""An optimizer over a whole small set of parameters, and over the parts that ranks hold of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ...modifiers.ema import local_part
from .likeness import Factory, Likeness, made_quietly, random_state, seed_step

NUM_RANKS = 2
"""Among so many a cut is tried, whatever the run has: it may resume elsewhere."""


class UnlikeError(Exception):
    """An optimizer does not do the same; says what it does."""


class Part(NamedTuple):
    """Where elements [start, end) of a flattened parameter lie."""

    name: str
    start: int
    end: int
    owner: torch.Tensor
    """By which the optimizer's state is keyed."""
    offset: int
    """Where they begin in the flattened owner."""
    is_whole: bool = False
    """Whether the owner is the parameter, whole; its state may then have any shape."""

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this part of a tensor shaped like the owner, flat, on this rank."""
        flat = local_part(tensor).reshape(-1)
        return flat[self.offset : self.offset + self.end - self.start]


class Stepped(ABC):
    """One rank's optimizer, and what it steps."""

    def __init__(self, factory: Factory, likeness: Likeness) -> None:
        self.likeness = likeness
        self.optimizer = self._make(factory)
        self.draws = False
        """Whether a step has drawn random numbers of torch."""

    @abstractmethod
    def _make(self, factory: Factory) -> torch.optim.Optimizer:
        """Make the optimizer over what this rank holds."""

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """Yield what this rank holds of the chosen parameters."""

    def step(self, number: int) -> None:
        """Take one step, with the gradients of that number."""
        gradients = self.likeness.gradients(number)
        owners = {id(part.owner): part.owner for part in self.parts()}
        for owner in owners.values():
            owner.grad = torch.zeros_like(owner)
        for part in self.parts():
            assert part.owner.grad is not None
            part.of(part.owner.grad).copy_(gradients[part.name].reshape(-1)[part.start : part.end])
        before = seed_step(number, self.likeness.device)
        self._step()
        self.draws |= before != random_state(self.likeness.device)

    def _step(self) -> None:
        self.optimizer.step()


class Whole(Stepped):
    """All parameters on one rank, as they are."""

    def _make(self, factory: Factory) -> torch.optim.Optimizer:
        self.named = self.likeness.parameters()
        return made_quietly(factory, self.named)

    def parts(self) -> Iterator[Part]:
        """Yield all of the chosen parameters."""
        for name in self.likeness.chosen:
            yield Part(name, 0, self.named[name].numel(), self.named[name], 0, is_whole=True)


class Rows(Stepped):
    """The rows of every parameter that one rank holds, as torch's fully_shard cuts them."""

    def __init__(self, factory: Factory, likeness: Likeness, rank: int) -> None:
        self._rank = rank
        super().__init__(factory, likeness)

    def _make(self, factory: Factory) -> torch.optim.Optimizer:
        self._named = {}
        for name, whole in self.likeness.parameters().items():
            rows = slice(*self._range(len(whole))) if whole.ndim else ...
            self._named[name] = nn.Parameter(whole.detach()[rows].clone())
        return made_quietly(factory, self._named)

    def _range(self, num_rows: int) -> tuple[int, int]:
        each = -(-num_rows // NUM_RANKS)
        return min(num_rows, self._rank * each), min(num_rows, (self._rank + 1) * each)

    def parts(self) -> Iterator[Part]:
        """Yield the rows of the chosen parameters."""
        for name in self.likeness.chosen:
            shape, owner = self.likeness.shapes[name], self._named[name]
            # What has no dimension is whole on every rank.
            start = self._range(shape[0])[0] * torch.Size(shape[1:]).numel() if shape else 0
            yield Part(name, start, start + owner.numel(), owner, 0)


class Flat(Stepped):
    """One flat tensor for each group, as DeepSpeed's stages 1 and 2 cut and step them."""

    def __init__(self, factory: Factory, likeness: Likeness, rank: int) -> None:
        self._rank = rank
        self._parts: list[Part] = []
        self._flats: list[tuple[dict[str, Any], nn.Parameter]] = []
        super().__init__(factory, likeness)

    def _make(self, factory: Factory) -> torch.optim.Optimizer:
        named = self.likeness.parameters()
        optimizer = made_quietly(factory, named)
        if any(optimizer.state.values()):
            raise UnlikeError(
                "it makes its state when it is made, for whole parameters, which flat ones replace"
            )
        for group, names in zip(optimizer.param_groups, self.likeness.groups, strict=True):
            chosen = [name for name in names if name in self.likeness.chosen]
            for some in self._flattened_together(chosen):
                flat = self._flat({name: named[name].detach() for name in some})
                self._flats.append((group, flat))
            group["params"] = [flat for owner, flat in self._flats if owner is group]
        return optimizer

    def _flattened_together(self, names: list[str]) -> list[list[str]]:
        return [names]

    def _flat(self, values: Mapping[str, torch.Tensor]) -> nn.Parameter:
        total = sum(value.numel() for value in values.values())
        size = -(-total // NUM_RANKS)
        low, begin = self._rank * size, 0
        flat = nn.Parameter(torch.zeros(size, device=self.likeness.device))
        for name, value in values.items():
            first, last = max(begin, low), min(begin + value.numel(), low + size)
            if first < last:
                self._add(Part(name, first - begin, last - begin, flat, first - low), value)
            begin += value.numel()
        return flat

    def _add(self, part: Part, value: torch.Tensor) -> None:
        self._parts.append(part)
        part.of(part.owner).copy_(value.reshape(-1)[part.start : part.end])

    def parts(self) -> Iterator[Part]:
        """Yield what lies in the flat tensors."""
        yield from self._parts

    def _step(self) -> None:
        # stage_1_and_2.py, DeepSpeedZeroOptimizer._optimizer_step
        groups = self.optimizer.param_groups
        for group in groups:
            self.optimizer.param_groups = [group]
            self.optimizer.step()
        self.optimizer.param_groups = groups


class FlatEach(Flat):
    """The same, of a part of each parameter, as DeepSpeed's stage 3 cuts and steps them."""

    def _flat(self, values: Mapping[str, torch.Tensor]) -> nn.Parameter:
        sizes = {name: -(-value.numel() // NUM_RANKS) for name, value in values.items()}
        flat = nn.Parameter(torch.zeros(sum(sizes.values()), device=self.likeness.device))
        offset = 0
        for name, value in values.items():
            start = min(self._rank * sizes[name], value.numel())
            end = min(start + sizes[name], value.numel())
            if start < end:
                self._add(Part(name, start, end, flat, offset), value)
            offset += sizes[name]
        return flat

    def _step(self) -> None:
        # stage3.py, DeepSpeedZeroOptimizer_Stage3._optimizer_step
        for group in self.optimizer.param_groups:
            group["params"] = []
        for group, flat in self._flats:
            group["params"] = [flat]
            self.optimizer.step()
            group["params"] = []


class FlatInPieces(FlatEach):
    """The same where a group is more than one flat tensor: it is large, or unfrozen in parts."""

    def _flattened_together(self, names: list[str]) -> list[list[str]]:
        return [some for some in (names[::2], names[1::2]) if some]
