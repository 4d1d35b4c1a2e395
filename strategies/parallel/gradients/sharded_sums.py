"""Exact sums of gradients that fully_shard reduces into shards of rows.

fully_shard reduces each group of parameters in every backward: in float64 here, through a
collective that rounds first (see gradient_sums.py), and a hook that adds up over micro-batches.
What it leaves in `.grad` on the way, in fp32, is overwritten. Read in torch 2.13
(_fully_shard/_fsdp_collectives.py): the flat input of the collective is [ranks, group's padded
shards], one parameter after the other, of those that have a gradient. Replicas on several nodes are
summed after that collective, and before the hook.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from ...collectives.order_free import round_away_
from ...collectives.process_group import Ranks
from ...collectives.shared_memory import SharedMemory
from ...errors import ConfigError
from ...torch_internals import fsdp_parameters, reduce_scatter
from .owners import add_of_others, rows_size_bytes
from .step_units import StepUnits

_VERBS = ("set_custom_reduce_scatter", "set_all_reduce_hook", "set_gradient_divide_factor")


class ShardedSums:
    """The running sums of this rank's shards: 8 bytes for each of their elements."""

    def __init__(
        self, modules: Iterable[nn.Module], named: Sequence[tuple[str, nn.Parameter]], ranks: Ranks
    ) -> None:
        """Take over the reduction of sharded modules.

        Args:
            modules: of the model.
            named: the trainable shards, DTensors cut by rows.
            ranks: of the run: those over which rows are cut, and their replicas.

        Raises:
            ConfigError: this torch has no hook for the reduction; a dtype cannot be summed exactly.
        """
        self._units = StepUnits(named, ranks)
        self._parameters = [parameter for _, parameter in named]
        numbers = {id(parameter): number for number, parameter in enumerate(self._parameters)}
        self._parts: list[_Part] = []
        for module in modules:
            if not isinstance(module, FSDPModule):
                continue
            own = [numbers.get(id(one.sharded_param)) for one in fsdp_parameters(module)]
            trained = [number for number in own if number is not None]
            if trained:
                self._parts.append(_Part(module, trained, self._parameters, self._units))
        room = max((part.room_bytes for part in self._parts), default=0)
        memory = ranks.reserved_memory(room)
        for part in self._parts:
            part.memory = memory

    @property
    def exponents(self) -> dict[str, int]:
        """By name, what is known of each parameter's gradients; the same on every rank."""
        return self._units.exponents

    def begin(self, exponents: Mapping[str, int], count: int) -> None:
        """Begin a step; see `StepUnits.begin`."""
        self._units.begin(exponents, count)
        for part in self._parts:
            part.begin()

    def put(self) -> list[str]:
        """Leave the totals in the shards' gradients. Called on every rank.

        Returns:
            The parameters whose sums may depend on the order after all.
        """
        self._units.ask()
        for part in self._parts:
            for number, total in part.shares():
                grad: Any = self._parameters[number].grad
                if grad is not None:
                    local = grad.to_local()
                    local.copy_(total[: local.numel()].view_as(local))
        return self._units.agree()[1]


class _Part:
    """One group of parameters that fully_shard reduces together: its collective and its hook."""

    def __init__(
        self,
        module: Any,
        numbers: Sequence[int],
        parameters: Sequence[nn.Parameter],
        units: StepUnits,
    ) -> None:
        missing = [verb for verb in _VERBS if not hasattr(module, verb)]
        if missing:
            raise ConfigError(
                f"--exact under strategy=fsdp needs {missing[0]} of fully_shard, which torch "
                f"{torch.__version__} does not have. Use --strategy ddp."
            )
        self._numbers, self._units = list(numbers), units
        shards: Any = [parameters[number] for number in numbers]
        self._ranks = shards[0].device_mesh.size(-1)
        self._sizes = [_padded(shard.shape, self._ranks) for shard in shards]
        device = shards[0].to_local().device
        self._filled: torch.Tensor | None = None
        self._is_rounded = False
        self.room_bytes = rows_size_bytes(sum(self._sizes), self._ranks)
        """That it needs of `memory`."""
        self.memory: SharedMemory | None = None
        """Of all ranks, set before the first step."""
        self.total = torch.zeros(sum(self._sizes), dtype=torch.float64, device=device)
        module.set_custom_reduce_scatter(self)
        module.set_all_reduce_hook(self._add)
        module.set_gradient_divide_factor(1.0)

    def begin(self) -> None:
        """Begin a step."""
        self.total.zero_()
        self._filled, self._is_rounded = None, False

    def shares(self) -> Iterable[tuple[int, torch.Tensor]]:
        """Return (number of the parameter, its padded rows) of this rank."""
        return zip(self._numbers, torch.split(self.total, self._sizes), strict=True)

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """Return memory for the flat input, and then, when it is filled, for the output.

        Where rows are not cut there is no collective between the two, and with several nodes the
        sum over them follows at once: this is the last moment to round.
        """
        made = torch.empty(size, dtype=dtype, device=device)
        if self._ranks == 1 and self._filled is None:
            self._filled = made
        elif self._filled is not None:
            self._round(self._filled)
            self._filled = None
        return made

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> Any:
        """Round, and reduce over the ranks. Called on every rank, by fully_shard."""
        self._round(input_tensor)
        if input_tensor.is_cpu:
            rows = list(input_tensor.view(self._ranks, -1))
            output_tensor.copy_(rows[dist.get_rank(group)])
            add_of_others(output_tensor, rows, self.memory, group)
            return None
        return reduce_scatter(
            output_tensor, input_tensor, op=dist.ReduceOp.SUM, group=group, async_op=async_op
        )

    def _add(self, reduced: torch.Tensor) -> None:
        """Take what the ranks' sum of a micro-batch has left here."""
        if not self._is_rounded:
            raise ConfigError(
                f"--exact under strategy=fsdp: torch {torch.__version__} sums gradients over the "
                "ranks before they can be rounded. Use --strategy ddp."
            )
        self._is_rounded = False
        self.total += reduced

    def _round(self, flat: torch.Tensor) -> None:
        if flat.dtype != torch.float64 or flat.numel() != self._ranks * sum(self._sizes):
            raise ConfigError(
                f"--exact under strategy=fsdp: torch {torch.__version__} reduces "
                f"{flat.numel()} elements of {flat.dtype} where "
                f"{self._ranks * sum(self._sizes)} of float64 were expected. Use every trainable "
                "parameter in every micro-batch, or --strategy ddp."
            )
        rows = flat.view(self._ranks, -1)
        pieces = torch.split(rows, self._sizes, dim=1)
        for piece, unit in zip(pieces, self._units.look(self._numbers, pieces), strict=True):
            round_away_(piece, unit)
        self._is_rounded = True


def _padded(shape: torch.Size, ranks: int) -> int:
    """Return the elements of a rank's rows, as many on every rank."""
    return math.ceil(shape[0] / ranks) * math.prod(shape[1:])
