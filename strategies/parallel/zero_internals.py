"""All that is known here of DeepSpeed's private attributes.

Read in deepspeed 0.19 (runtime/zero/stage_1_and_2.py and stage3.py); `check_layout` proves at
start that it still holds and refuses otherwise. DeepSpeed's public accessors are not used: they
gather, raise for parameters outside the first group, and return wrong values with round-robin
gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist

from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The part of one parameter's master that this rank holds, inside a flat buffer."""

    fqn: str
    start: int
    end: int
    """Elements [start, end) of the flattened parameter."""
    buffer: torch.Tensor
    """Flat fp32 masters, 1-D; the optimizer's state is keyed by it."""
    group: int
    """Number of the parameter's group in the optimizer."""
    offset: int
    """Where the piece begins in the buffer."""

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """Return this piece's view of a tensor shaped like the buffer."""
        return flat.detach().narrow(0, self.offset, self.end - self.start)


class Stage12:
    """DeepSpeedZeroOptimizer: each group's parameters end to end, cut into equal partitions."""

    def __init__(self, zero_optimizer: Any) -> None:
        self._zero = zero_optimizer

    def pieces(self) -> Iterator[Piece]:
        """Yield what this rank holds. No collective."""
        zero = self._zero
        # round_robin_bit16_groups is the true flat order, also without round-robin gradients; the
        # offsets know the padding of `parameter_alignment`.
        for group, parameters in enumerate(zero.round_robin_bit16_groups):
            ranks = zero.real_dp_process_group[group]
            size = zero.bit16_groups_flat[group].numel() // dist.get_world_size(ranks)
            low = dist.get_rank(ranks) * size
            offsets = zero.round_robin_bit16_offsets[group]
            for parameter, begin in zip(parameters, offsets, strict=False):
                first = max(begin, low)
                last = min(begin + parameter.numel(), low + size)
                if first < last:
                    yield Piece(
                        fqn=zero.param_names[parameter],
                        start=first - begin,
                        end=last - begin,
                        buffer=zero.single_partition_of_fp32_groups[group],
                        group=group,
                        offset=first - low,
                    )

    def gradients(self) -> Iterator[tuple[Piece, torch.Tensor]]:
        """Yield this rank's share of the averaged gradients, after the last backward."""
        # What lies between two pieces, and after the last, is padding.
        found = {
            (group, begin): grad
            for group, grads in self._zero.averaged_gradients.items()
            for begin, grad in zip(
                accumulate((grad.numel() for grad in grads), initial=0), grads, strict=False
            )
        }
        for piece in self.pieces():
            yield piece, found[piece.group, piece.offset]

    def begin_load(self) -> None:
        """Nothing to prepare."""

    def refresh(self) -> None:
        """Copy the masters into the computing weights and gather them. Called on every rank."""
        self._zero.update_lp_params()


class Stage3:
    """DeepSpeedZeroOptimizer_Stage3: every parameter cut into equal parts, the last one padded."""

    def __init__(self, zero_optimizer: Any) -> None:
        self._zero = zero_optimizer

    def pieces(self) -> Iterator[Piece]:
        """Yield what this rank holds. No collective."""
        zero = self._zero
        for group, parameters in enumerate(zero.fp16_groups):
            for parameter in parameters:
                _, offset, padded = zero.grad_position[zero.get_param_id(parameter)]
                start = zero._get_param_partition_rank(parameter) * padded
                end = min(start + padded, parameter.ds_numel)
                if start < end:
                    yield Piece(
                        fqn=zero.param_names[parameter],
                        start=start,
                        end=end,
                        buffer=zero.fp32_partitioned_groups_flat[group],
                        group=zero.sub_group_to_group_id[group],
                        offset=offset,
                    )

    def gradients(self) -> Iterator[tuple[Piece, torch.Tensor]]:
        """Yield this rank's share of the averaged gradients, after the last backward."""
        zero = self._zero
        found = {
            zero.param_names[parameter]: grad
            for group, parameters in enumerate(zero.fp16_groups)
            for parameter, grad in zip(parameters, zero.averaged_gradients[group], strict=True)
        }
        for piece in self.pieces():
            yield piece, found[piece.fqn].narrow(0, 0, piece.end - piece.start)

    def begin_load(self) -> None:
        """Release the gathered copies of small parameters, which loading would leave stale."""
        self._zero.checkpoint_event_prologue()

    def refresh(self) -> None:
        """Cast the masters into the computing shards and gather. Called on every rank."""
        zero = self._zero
        for group, masters in enumerate(zero.fp32_partitioned_groups_flat):
            low = zero.fp16_partitioned_groups_flat[group]
            low.data.copy_(masters.data)
            shards = zero.fp16_partitioned_groups[group]
            for shard, view in zip(shards, zero.unflatten(low, shards), strict=True):
                shard.data = view.data
        zero.checkpoint_event_epilogue()

    def frozen_range(self, parameter: Any) -> tuple[int, int, torch.Tensor]:
        """Return (start, end, local values) of a parameter that is not trained."""
        shard: torch.Tensor = parameter.ds_tensor
        start = min(dist.get_rank(parameter.ds_process_group) * shard.numel(), parameter.ds_numel)
        end = min(start + shard.numel(), parameter.ds_numel)
        return start, end, shard.data.view(-1)[: end - start]


_LAYOUTS: dict[str, type[Stage12] | type[Stage3]] = {
    "DeepSpeedZeroOptimizer": Stage12,
    "DeepSpeedZeroOptimizer_Stage3": Stage3,
}


def layout_of(zero_optimizer: Any, version: str) -> Stage12 | Stage3:
    """Return the reader of this optimizer's layout.

    Raises:
        ConfigError: DeepSpeed built an optimizer that is not known here.
    """
    kind = type(zero_optimizer).__name__
    if kind not in _LAYOUTS:
        raise ConfigError(
            f"DeepSpeed {version} built a {kind}, whose state cannot be read here. Known are "
            f"{', '.join(_LAYOUTS)}; install a tested version (see constraints.txt)."
        )
    return _LAYOUTS[kind](zero_optimizer)


def check_layout(
    layout: Stage12 | Stage3,
    initial: Mapping[str, torch.Tensor],
    compute_dtype: torch.dtype,
    version: str,
) -> None:
    """Prove that the pieces found hold the masters that the model was built with.

    Args:
        layout: the reader to prove.
        initial: every parameter before DeepSpeed took the model, flat, fp32, on the host.
        compute_dtype: DeepSpeed rounds the masters to it when it is built.
        version: DeepSpeed's version, for the message.

    Raises:
        ConfigError: a piece holds other values, so that reading state through it would be wrong.
    """
    for piece in layout.pieces():
        expected = initial[piece.fqn][piece.start : piece.end].to(compute_dtype).float()
        if not torch.equal(piece.of(piece.buffer).float().cpu(), expected):
            raise ConfigError(
                f"DeepSpeed {version} lays out {piece.fqn} [{piece.start}, {piece.end}) otherwise "
                "than known here, so its state could not be saved correctly. "
                "Install a tested version (see constraints.txt) or use --strategy fsdp."
            )
