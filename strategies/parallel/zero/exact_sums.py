"""Exact sums of gradients under ZeRO: how DeepSpeed hands its gradients over and gets the totals.

With `internals`, the place of what is known of DeepSpeed's private attributes (read in deepspeed
0.19.8). The hook that DeepSpeed has on each parameter calls a method of its optimizer with the
gradient of a micro-batch; another function is put in its place here, and what the ranks own of the
totals goes where DeepSpeed's step looks for its own. `known_step` proves both at each start.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from ...collectives.process_group import Ranks
from ...errors import INSTALL_TESTED, ConfigError
from ..gradients import squares
from ..gradients.grad_norm import Meanwhile
from ..gradients.partition_sums import Cut, PartitionSums
from .internals import GRADIENT_OF_A_SHARE, Layout, Piece, Stage3

Take = Callable[[Any], None]
Totals = Mapping[str, torch.Tensor]


class _Handover(ABC):
    """Between DeepSpeed's optimizer and the sums."""

    needs: ClassVar[tuple[str, ...]]
    """Attributes that are replaced: what is not there would be set without an effect."""

    def __init__(self, zero_optimizer: Any) -> None:
        self._zero = zero_optimizer

    @abstractmethod
    def cuts(self) -> Iterator[tuple[str, Any, list[Cut]]]:
        """Yield (name, parameter, who owns what) of what is trained, on every rank alike."""

    @abstractmethod
    def hand_over(self, take: Take) -> None:
        """Have each parameter whose gradient has come given to `take`, in place of DeepSpeed."""

    @abstractmethod
    def put(self, layout: Layout, totals: Totals) -> None:
        """Leave the totals of this rank's pieces where the step looks for gradients."""


class _Handover12(_Handover):
    """DeepSpeedZeroOptimizer."""

    needs = ("process_gradients", "independent_gradient_partition_epilogue")

    def cuts(self) -> Iterator[tuple[str, Any, list[Cut]]]:
        """Yield (name, parameter, who owns what) of what is trained, on every rank alike."""
        zero, world_size = self._zero, dist.get_world_size()
        for group, parameters in enumerate(zero.round_robin_bit16_groups):
            size = zero.bit16_groups_flat[group].numel() // world_size
            offsets = zero.round_robin_bit16_offsets[group]
            for parameter, begin in zip(parameters, offsets, strict=False):
                bounds = [(rank * size, (rank + 1) * size) for rank in range(world_size)]
                numel = parameter.numel()
                yield zero.param_names[parameter], parameter, _cuts(bounds, begin, numel)

    def hand_over(self, take: Take) -> None:
        """Have each parameter whose gradient has come given to `take`, in place of DeepSpeed."""
        self._zero.process_gradients = lambda parameter, _group: take(parameter)
        self._zero.independent_gradient_partition_epilogue = lambda: None

    def put(self, layout: Layout, totals: Totals) -> None:
        """Leave the totals of this rank's pieces where the step looks for gradients."""
        held: dict[int, list[Piece]] = {}
        for piece in layout.pieces():
            held.setdefault(piece.group, []).append(piece)
        for group, masters in enumerate(self._zero.single_partition_of_fp32_groups):
            flat = torch.zeros_like(masters.detach(), dtype=torch.float32)
            pieces = held.get(group, [])
            for piece in pieces:
                piece.of(flat).copy_(totals[piece.fqn])
            # A tensor for each piece and for what lies between two, as DeepSpeed's own sums are.
            ends = {p.offset for p in pieces} | {p.offset + p.end - p.start for p in pieces}
            bounds = sorted(ends | {0, flat.numel()})
            self._zero.averaged_gradients[group] = [flat[a:b] for a, b in pairwise(bounds)]


class _Handover3(_Handover):
    """DeepSpeedZeroOptimizer_Stage3."""

    needs = ("reduce_ready_partitions_and_remove_grads",)

    def cuts(self) -> Iterator[tuple[str, Any, list[Cut]]]:
        """Yield (name, parameter, who owns what) of what is trained, on every rank alike."""
        zero, world_size = self._zero, dist.get_world_size()
        for parameters in zero.fp16_groups:
            for parameter in parameters:
                _, _, padded = zero.grad_position[zero.get_param_id(parameter)]
                bounds = [(rank * padded, (rank + 1) * padded) for rank in range(world_size)]
                numel = parameter.ds_numel
                yield zero.param_names[parameter], parameter, _cuts(bounds, 0, numel)

    def hand_over(self, take: Take) -> None:
        """Have each parameter whose gradient has come given to `take`, in place of DeepSpeed."""
        self._zero.reduce_ready_partitions_and_remove_grads = take

    def put(self, layout: Layout, totals: Totals) -> None:
        """Leave the totals of this rank's pieces where the step looks for gradients."""
        for piece, grad in layout.gradients():
            grad.copy_(totals[piece.fqn])


def _cuts(bounds: list[tuple[int, int]], begin: int, numel: int) -> list[Cut]:
    """Return who owns what of elements that begin at `begin`; bounds are by rank."""
    found = [
        Cut(rank=rank, start=max(low - begin, 0), end=min(high - begin, numel))
        for rank, (low, high) in enumerate(bounds)
    ]
    return [cut for cut in found if cut.start < cut.end]


class ExactSums:
    """The exact sums of one engine, from the backwards to the step."""

    def __init__(
        self,
        zero_optimizer: Any,
        layout: Layout,
        order: Mapping[str, object],
        ranks: Ranks,
        *,
        version: str,
    ) -> None:
        """Take DeepSpeed's gradients over, before the first backward.

        Args:
            zero_optimizer: of the engine.
            layout: its reader.
            order: by name, the trainable parameters in the model's order.
            ranks: all of the run.
            version: DeepSpeed's.

        Raises:
            ConfigError: this DeepSpeed lacks what is replaced; a dtype cannot be summed exactly.
        """
        handover: type[_Handover] = _Handover3 if isinstance(layout, Stage3) else _Handover12
        missing = [name for name in handover.needs if not hasattr(zero_optimizer, name)]
        if missing:
            raise ConfigError(
                f"--exact under ZeRO needs {missing[0]} of DeepSpeed's optimizer, which DeepSpeed "
                f"{version} does not have. {INSTALL_TESTED}, or use --strategy fsdp."
            )
        self._handover = handover(zero_optimizer)
        self._layout, self._ranks = layout, ranks
        found = {name: (parameter, cuts) for name, parameter, cuts in self._handover.cuts()}
        names = [name for name in order if name in found]
        cuts = {name: found[name][1] for name in names}
        self._numels = [sum(cut.end - cut.start for cut in cuts[name]) for name in names]
        self._numbers = {id(found[name][0]): number for number, name in enumerate(names)}
        self._sums = PartitionSums([(n, found[n][0]) for n in names], cuts, ranks)
        self._handover.hand_over(self._take)

    @property
    def exponents(self) -> dict[str, int]:
        """By name, what is known of each parameter's gradients; the same on every rank."""
        return self._sums.exponents

    def begin(self, exponents: Mapping[str, int], count: int) -> None:
        """Begin a step; see `StepUnits.begin`."""
        self._sums.begin(exponents, count)

    def _take(self, parameter: Any) -> None:
        grad, number = parameter.grad, self._numbers[id(parameter)]
        if grad.numel() != self._numels[number]:
            raise RuntimeError(f"{grad.numel()} != {self._numels[number]}: {GRADIENT_OF_A_SHARE}")
        parameter.grad = None
        self._sums.take(number, grad)

    def finish(self) -> None:
        """End a micro-batch, after its backward. Called on every rank."""
        self._sums.finish()

    def ask(self) -> None:
        """See `StepUnits.ask`. Called on every rank."""
        self._sums.ask()

    def agree(self) -> tuple[str, ...]:
        """End a step, after `ask`; see `PartitionSums.agree`."""
        return tuple(self._sums.agree())

    def put(self) -> None:
        """Leave the totals where the step looks for gradients. No collective."""
        totals = {name: total for name, _, total in self._sums.totals()}
        self._handover.put(self._layout, totals)

    def squares(self, grads: list[torch.Tensor], meanwhile: Meanwhile) -> float:
        """Return the sum of squares of all ranks' gradients, the bits of every other strategy.

        Called on every rank.

        Args:
            grads: this rank's share.
            meanwhile: what the host does while its device computes.
        """
        flat = [grad.reshape(-1) for grad in grads]
        count = sum(self._numels)
        if self._ranks.device.type != "cpu":
            return squares.sum_of_squares_on_device(
                flat, self._ranks, count=count, meanwhile=meanwhile
            )
        largest = squares.largest_magnitude(grads, self._ranks, is_spread=True)
        return squares.sum_of_squares(flat, largest, self._ranks, count=count)
