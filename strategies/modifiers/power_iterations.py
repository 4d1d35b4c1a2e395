"""Spectral norm's vectors, the same on every rank and any number of ranks.

torch moves them with every forward, by so many power iterations on the weight. They do not depend
on the data, and the weight stays what it is within a step. So each rank makes, before a
micro-batch, the moves of those that other ranks compute before it, and after its last one the moves
of the rest: it is where one rank that computes them all in order would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from .recomputation import MOVED_IN_ORDER, inside_backward

Move: TypeAlias = Callable[[int], None]
"""Makes the moves of so many forwards."""


class _Sequence:
    """Where the vectors of one weight are in the sequence of a step's micro-batches."""

    def __init__(self, vectors: Callable[[], Sequence[torch.Tensor]], world_size: int) -> None:
        self._vectors = vectors
        self._world_size = world_size
        self._uses = 1
        """Forwards of the weight in one micro-batch, as the former one had them."""
        self.is_irregular = False
        """That number has changed, so that the place in the sequence was another."""
        self._count = self._done = self._used = 0
        self._index: int | None = None
        self._final: list[torch.Tensor] = []

    def begin_step(self, count: int) -> None:
        self._count, self._done, self._final = count, 0, []

    def begin_micro_batch(self, index: int, *, is_padding: bool) -> None:
        self._index = None if is_padding else index
        self._used = 0

    def end(self) -> None:
        """Leave the step: a forward outside of one moves as torch does."""
        self._count, self._done, self._used = 0, 0, 0
        self._index, self._final = None, []

    def advance(self, move: Move) -> None:
        """Move to where this forward is, and find out where the step ends."""
        if inside_backward():
            return  # a recomputation: they are where this micro-batch's forward has moved them
        if not self._count:
            move(1)
            return
        if self._index is None:
            if self._done == 0:  # this rank has no micro-batch of its own in this step
                self._find_end(move, self._count * self._uses)
            return
        if self._used == 0:
            move((self._index - self._done) * self._uses + 1)
            self._done = self._index + 1
        else:
            move(1)
        self._used += 1
        if self._index + self._world_size >= self._count:
            self._find_end(move, (self._count - self._done) * self._uses)

    def _find_end(self, move: Move, moves: int) -> None:
        here = [vector.clone() for vector in self._vectors()]
        move(moves)
        self._final = [vector.clone() for vector in self._vectors()]
        _put(self._vectors(), here)

    def end_micro_batch(self) -> None:
        if self._index is not None and self._used != self._uses:
            self.is_irregular |= self._count > 1
            self._uses = self._used

    def end_step(self) -> None:
        """Put the vectors to where the step ends."""
        self.is_irregular |= self._done > 0 and not self._final
        _put(self._vectors(), self._final)
        self.end()


class PowerIterations:
    """Follows the spectral norms of a model through the micro-batches of a step; no collective."""

    def __init__(self, model: nn.Module, world_size: int) -> None:
        self._sequences: dict[tuple[int, str], _Sequence] = {}
        for module in model.modules():
            if isinstance(module, _SpectralNorm) and "_u" in module._buffers:
                self._follow_parametrization(module, world_size)
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, SpectralNorm):
                    self._follow_hook(module, hook, world_size)

    def owns(self, module: nn.Module, buffer: str) -> bool:
        """Return whether a buffer of a module is one of the vectors, and computed in order."""
        sequence = self._sequences.get((id(module), buffer))
        return sequence is not None and not sequence.is_irregular

    def begin_step(self, count: int) -> None:
        """Begin a step of `count` micro-batches over all ranks."""
        for sequence in self._each():
            sequence.begin_step(count)

    def begin_micro_batch(self, index: int, *, is_padding: bool) -> None:
        """Begin the micro-batch with this canonical number, or a repeat."""
        for sequence in self._each():
            sequence.begin_micro_batch(index, is_padding=is_padding)

    def end_micro_batch(self) -> None:
        """Learn how often its weight is used in one."""
        for sequence in self._each():
            sequence.end_micro_batch()

    def end_step(self) -> None:
        """Put the vectors to where the step ends."""
        for sequence in self._each():
            sequence.end_step()

    def give_up(self) -> None:
        """Leave the step; what it has moved is put back by others."""
        for sequence in self._each():
            sequence.end()

    def _each(self) -> Iterator[_Sequence]:
        yield from dict.fromkeys(self._sequences.values())

    def _follow_parametrization(self, module: _SpectralNorm, world_size: int) -> None:
        sequence = _Sequence(lambda: (module._u, module._v), world_size)
        move_vectors = module._power_method

        def follow(weight_mat: torch.Tensor, n_power_iterations: int) -> None:
            sequence.advance(lambda moves: move_vectors(weight_mat, moves * n_power_iterations))

        # In the instance: torch calls it by this name in each forward, with what is gathered then.
        module._power_method = follow  # type: ignore[method-assign]
        self._keep(module, ("_u", "_v"), sequence)

    def _follow_hook(self, module: nn.Module, hook: SpectralNorm, world_size: int) -> None:
        names = f"{hook.name}_u", f"{hook.name}_v"
        sequence = _Sequence(lambda: [getattr(module, name) for name in names], world_size)
        compute_weight = hook.compute_weight

        def move(moves: int) -> None:
            with torch.no_grad(), _iterations(hook, moves * hook.n_power_iterations):
                compute_weight(module, do_power_iteration=True)

        def follow(owner: nn.Module, do_power_iteration: bool) -> torch.Tensor:
            if owner is not module or not do_power_iteration:
                return compute_weight(owner, do_power_iteration)
            sequence.advance(move)
            live = [getattr(module, name) for name in names]
            for name, vector in zip(names, live, strict=True):
                setattr(module, name, vector.clone())  # a backward may still need these
            weight = compute_weight(module, do_power_iteration=False)
            for name, vector in zip(names, live, strict=True):
                setattr(module, name, vector)
            return weight

        hook.compute_weight = follow  # type: ignore[method-assign,assignment]
        self._keep(module, names, sequence)

    def _keep(self, module: nn.Module, names: Sequence[str], sequence: _Sequence) -> None:
        module.__dict__[MOVED_IN_ORDER] = tuple(names)
        self._sequences |= {(id(module), name): sequence for name in names}


@contextmanager
def _iterations(hook: SpectralNorm, number: int) -> Iterator[None]:
    before = hook.n_power_iterations
    hook.n_power_iterations = number
    try:
        yield
    finally:
        hook.n_power_iterations = before


def _put(vectors: Sequence[torch.Tensor], values: Sequence[Any]) -> None:
    # Through .data: a backward that has saved them checks that nobody wrote to them.
    for vector, value in zip(vectors, values, strict=False):
        vector.data.copy_(value)
