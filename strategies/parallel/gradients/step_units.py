"""The units of all parameters through a step, agreed between the ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from ...collectives.late_number import LateNumbers
from ...collectives.process_group import Ranks
from ...errors import ConfigError
from .units import exponents_of, is_exact, unit_of

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_FAST_IN_TWO = (torch.float32, torch.float64)
"""Of which a CPU finds both extremes in two passes sooner than together: in 2/3 of the time, and in
2/5 where rows have gaps."""
_UNTOUCHED = -1.0


class StepUnits:
    """Rounds the gradients of parameters, which it knows by their numbers."""

    def __init__(self, named: Sequence[tuple[str, torch.Tensor]], ranks: Ranks) -> None:
        """Take the trainable parameters, or what stands for them.

        Raises:
            ConfigError: one has a dtype whose sums would not be exact.
        """
        for name, parameter in named:
            if parameter.dtype not in _DTYPES:
                raise ConfigError(
                    f"--exact sums gradients of float32 and below, and parameter {name} is "
                    f"{str(parameter.dtype).removeprefix('torch.')}. Convert it, or leave --exact "
                    "out."
                )
        self._names = [name for name, _ in named]
        self._ranks = ranks
        self._memory = ranks.reserved_memory(torch.float32.itemsize * len(named))
        self._count = 1
        self._is_known = False
        self._exponents: list[int | None] = [None] * len(named)
        self._measured: set[int] = set()
        self._places: dict[tuple[int, ...], torch.Tensor] = {}
        self._largest = self._nothing()
        self._asked: LateNumbers | None = None

    @property
    def exponents(self) -> dict[str, int]:
        """By name, what is known of each parameter's gradients; the same on every rank."""
        pairs = zip(self._names, self._exponents, strict=True)
        return {name: one for name, one in pairs if one is not None}

    def begin(self, exponents: Mapping[str, int], count: int) -> None:
        """Begin a step.

        Args:
            exponents: what was known after the step before; {}: nothing is.
            count: micro-batches of the step, over all ranks.
        """
        self._is_known = bool(exponents)
        self._exponents = [exponents.get(name) for name in self._names]
        self._count = count
        self._measured = set()
        self._largest = self._nothing()
        self._asked = None

    def look(self, numbers: Sequence[int], grads: Sequence[torch.Tensor | None]) -> list[int]:
        """Look at the gradients of a micro-batch; return the exponents of their units.

        Called on every rank in the same order, once a micro-batch for each parameter: where
        nothing is known yet, rank 0's first micro-batch tells, which is the same one on any number
        of ranks.

        Args:
            numbers: of the parameters.
            grads: of each, any shape; None: there is none.

        Raises:
            ConfigError: a gradient is sparse.
        """
        seen = self._largest_of(numbers, grads)
        if not self._is_known and not self._measured.issuperset(numbers):
            self._measure(numbers, seen)
        places = self._places_of(numbers)
        self._largest[places] = torch.maximum(self._largest[places], seen)
        return [unit_of(self._exponents[n], self._count) for n in numbers]

    def _places_of(self, numbers: Sequence[int]) -> torch.Tensor:
        """Return an index on the device. Made once: for each copy the host would wait."""
        key = tuple(numbers)
        if key not in self._places:
            self._places[key] = torch.tensor(key, device=self._ranks.device)
        return self._places[key]

    def _measure(self, numbers: Sequence[int], seen: torch.Tensor) -> None:
        first = seen.clone()
        if self._ranks.world_size > 1:
            dist.broadcast(first, src=0)
        found = exponents_of(first.tolist(), [self._exponents[n] for n in numbers])
        for number, exponent in zip(numbers, found, strict=True):
            self._exponents[number] = exponent
        self._measured.update(numbers)

    def ask(self) -> None:
        """Have the ranks tell each other, after the last look of a step. Called on every rank.

        What a device is given between this and `agree` it does while the host waits.
        """
        largest = torch.nan_to_num(self._largest, nan=math.inf, posinf=math.inf)
        self._agree_on(largest)
        self._asked = LateNumbers(largest)

    def agree(self) -> tuple[list[bool], list[str]]:
        """End a step, after `ask`.

        Returns:
            Whether any rank had a gradient, for each parameter; and the names of those whose sums
            may depend on the order, because their gradients have grown too much.
        """
        assert self._asked is not None, "nobody was asked"
        found: list[float] = self._asked.read()
        self._asked = None
        inexact = [
            name
            for name, exponent, one in zip(self._names, self._exponents, found, strict=True)
            if not is_exact(unit_of(exponent, self._count), one, self._count)
        ]
        self._exponents = exponents_of(found, self._exponents)
        return [one != _UNTOUCHED for one in found], inexact

    def _agree_on(self, largest: torch.Tensor) -> None:
        """Leave the largest of any rank. Called on every rank."""
        if self._memory is not None:
            told = 0, len(largest), largest.dtype
            self._memory.mine(*told).copy_(largest)
            self._memory.meet()
            for rank in range(self._ranks.world_size):
                torch.maximum(largest, self._memory.theirs(rank, *told), out=largest)
        elif self._ranks.world_size > 1:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)

    def _nothing(self) -> torch.Tensor:
        return torch.full((len(self._names),), _UNTOUCHED, device=self._ranks.device)

    def _largest_of(
        self, numbers: Sequence[int], grads: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        """Return the largest magnitude of each gradient, float32; -1: there is none."""
        for number, grad in zip(numbers, grads, strict=True):
            if grad is not None and grad.layout != torch.strided:
                raise ConfigError(
                    f"--exact sums dense gradients, and that of {self._names[number]} is sparse. "
                    "Build its layer with sparse=False, or leave --exact out."
                )
        if self._ranks.device.type != "cpu":
            return largest_of_each(grads, self._ranks.device).float()
        untouched = torch.full((), _UNTOUCHED)
        lows, highs = [], []
        for grad in grads:
            if grad is None:
                low, high = -untouched, untouched
            elif grad.numel():
                low, high = _extremes(grad.detach())
            else:
                low = high = torch.zeros_like(untouched)
            lows.append(low)
            highs.append(high)
        # Together, not one by one: small operations cost as much as a pass over a small gradient.
        lowest, highest = torch.stack(lows).float(), torch.stack(highs).float()
        return torch.maximum(lowest.neg_(), highest)


def largest_of_each(grads: Sequence[torch.Tensor | None], device: torch.device) -> torch.Tensor:
    """Return the largest magnitudes (n,); nan where there is one, -1 where there is no tensor.

    By few launches, whose number does not grow with the number of contiguous tensors of a dtype.

    Args:
        grads: on the device.
        device: an accelerator.
    """
    constants = {value: torch.full((), value, device=device) for value in (_UNTOUCHED, 0.0)}
    found = [constants[_UNTOUCHED if grad is None else 0.0] for grad in grads]
    looked_at: dict[torch.dtype, list[tuple[int, torch.Tensor]]] = {}
    for at, grad in enumerate(grads):
        if grad is not None and grad.numel():
            looked_at.setdefault(grad.dtype, []).append((at, grad))
    for pairs in looked_at.values():
        with torch.no_grad():
            norms = torch._foreach_norm([grad for _, grad in pairs], math.inf)
        for (at, _), norm in zip(pairs, norms, strict=True):
            found[at] = norm
    return torch.stack(found)


def largest_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitude, 0-dim; nan where there is one. Nothing waits for it."""
    # Several times as fast on a CPU as the norm of infinite order.
    low, high = _extremes(tensor)
    return torch.maximum(low.neg(), high)


def _extremes(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the smallest and the largest number, 0-dim; nan where there is one."""
    if tensor.is_cpu and tensor.dtype in _FAST_IN_TWO:
        return tensor.amin(), tensor.amax()
    low, high = torch.aminmax(tensor)
    return low, high
