"""All that is known here of DeepSpeed's private attributes.

Read in deepspeed 0.19.8 (runtime/zero/stage_1_and_2.py and stage3.py). At each start `layout_of`
looks for the names, `known_step` takes a step whose result is known, and `check_masters` proves
where the masters are; what does not hold is refused. DeepSpeed's public accessors are not used:
they gather, raise for parameters outside the first group, and return wrong values with round-robin
gradients.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from ...errors import INSTALL_TESTED, ConfigError

GRADIENT_OF_A_SHARE = "gradients whose size is not same as the params"
"""DeepSpeed's words in stage 3 (stage3.py): the share of a parameter was used."""


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


class Layout(ABC):
    """Where DeepSpeed has a rank's masters and gradients."""

    needs: ClassVar[tuple[str, ...]]
    """Attributes of DeepSpeed's optimizer that are read or set here: what it lacks would be set
    without an effect."""

    def __init__(self, zero_optimizer: Any) -> None:
        self._zero = zero_optimizer

    def steps(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether it is this optimizer that steps."""
        return self._zero.optimizer is optimizer

    @property
    @abstractmethod
    def is_offloaded(self) -> bool:
        """Whether masters, gradients and optimizer state are in the host's memory."""

    @property
    def sums_in(self) -> torch.dtype:
        """In what gradients are added over micro-batches and ranks."""
        dtypes: set[torch.dtype] = {
            self._zero.gradient_accumulation_dtype,
            self._zero.communication_data_type,
        }
        return min(dtypes, key=lambda dtype: dtype.itemsize)

    @property
    def divides_by(self) -> int:
        """By what the sum of the gradients over the ranks has been divided."""
        return dist.get_world_size()

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """Yield what this rank holds. No collective."""

    @abstractmethod
    def group_names(self) -> list[list[str]]:
        """Return the names of the parameters of each group, on every rank alike."""

    def gradients(self) -> Iterator[tuple[Piece, torch.Tensor]]:
        """Yield this rank's share of the reduced gradients, after the last backward."""
        if not self.is_offloaded:
            yield from self._reduced()
            return
        for piece in self.pieces():
            assert piece.buffer.grad is not None
            yield piece, piece.of(piece.buffer.grad)

    @abstractmethod
    def _reduced(self) -> Iterator[tuple[Piece, torch.Tensor]]:
        """Yield the same where nothing is offloaded."""

    @abstractmethod
    def settle(self, *, is_finite: bool) -> None:
        """Have the step follow our verdict, just before it.

        DeepSpeed's own, where gradients are offloaded, is without the other ranks, before the
        penalty, and over parameters that are held back too.
        """

    def forget_gradients(self) -> None:
        """After a step: offloaded gradients stay otherwise, for parameters that get none."""
        if self.is_offloaded:
            for piece in self.pieces():
                assert piece.buffer.grad is not None
                piece.of(piece.buffer.grad).zero_()

    @abstractmethod
    def begin_load(self) -> None:
        """Prepare for masters that are overwritten."""

    @abstractmethod
    def refresh(self) -> None:
        """Cast the masters into the computing weights and gather them. Called on every rank."""


class Stage12(Layout):
    """DeepSpeedZeroOptimizer: each group's parameters end to end, cut into equal partitions."""

    needs = (
        *(
            "_wait_for_offload_copies",
            "averaged_gradients",
            "bit16_groups_flat",
            "check_grad_overflow",
            "communication_data_type",
        ),
        *("compute_grad_norm", "cpu_offload", "gradient_accumulation_dtype", "gradient_average"),
        *("independent_gradient_partition_epilogue", "reduce_ready_partitions_and_remove_grads"),
        *("loss_scaler", "overflow", "param_names", "partition_gradients", "real_dp_process_group"),
        *("round_robin_bit16_groups", "round_robin_bit16_offsets"),
        *("single_partition_of_fp32_groups", "update_lp_params"),
        *("use_grad_accum_attribute", "use_separate_grad_accum"),
    )

    @property
    def is_offloaded(self) -> bool:
        """Whether masters, gradients and optimizer state are in the host's memory."""
        return bool(self._zero.cpu_offload)

    @property
    def divides_by(self) -> int:
        """By what the sum of the gradients over the ranks has been divided."""
        return super().divides_by if self._zero.gradient_average else 1

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

    def group_names(self) -> list[list[str]]:
        """Return the names of the parameters of each group, on every rank alike."""
        names = self._zero.param_names
        return [[names[p] for p in group] for group in self._zero.round_robin_bit16_groups]

    def sum_in_fp32(self) -> None:
        """Have micro-batches added in fp32, before the first backward.

        DeepSpeed would build its BF16_Optimizer if it were asked for that in bf16 in stage 1; asked
        for it in fp16, its engine sets just these (stage_1_and_2.py, DeepSpeedZeroOptimizer).
        """
        zero = self._zero
        zero.gradient_accumulation_dtype = torch.float32
        zero.use_separate_grad_accum = zero.dtype != torch.float32
        zero.use_grad_accum_attribute = (
            zero.use_separate_grad_accum and not zero.partition_gradients
        )

    def gradients(self) -> Iterator[tuple[Piece, torch.Tensor]]:
        """Yield this rank's share of the reduced gradients, after the last backward."""
        # On their way from a GPU while the host goes on; DeepSpeed waits in its step only.
        self._zero._wait_for_offload_copies()
        yield from super().gradients()

    def _reduced(self) -> Iterator[tuple[Piece, torch.Tensor]]:
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

    def forget_gradients(self) -> None:
        """After a step: none of its gradients may be added to."""
        super().forget_gradients()
        if self.is_offloaded:
            # Of a step that it skips DeepSpeed keeps the fp32 sums on the device otherwise.
            self._zero.averaged_gradients = dict.fromkeys(self._zero.averaged_gradients)

    def settle(self, *, is_finite: bool) -> None:
        """Have the step follow our verdict, just before it."""
        if self.is_offloaded:
            self._zero.local_overflow = not is_finite
            numbers = () if is_finite else self._zero.param_id.values()
            self._zero.norm_for_param_grads = dict.fromkeys(numbers, torch.tensor(math.nan))
            return
        # What is known already it would recompute, with two more sums over the ranks.
        self._zero.compute_grad_norm = False
        self._zero.check_grad_overflow = not is_finite

    def begin_load(self) -> None:
        """Nothing to prepare."""

    def refresh(self) -> None:
        """Copy the masters into the computing weights and gather them. Called on every rank."""
        self._zero.update_lp_params()


class Stage3(Layout):
    """DeepSpeedZeroOptimizer_Stage3: every parameter cut into equal parts, the last one padded."""

    needs = (
        *("_get_norm_groups", "_get_param_partition_rank", "averaged_gradients"),
        *("check_overflow", "checkpoint_event_epilogue", "checkpoint_event_prologue"),
        *("communication_data_type", "fp16_groups"),
        *(
            "fp16_partitioned_groups",
            "fp16_partitioned_groups_flat",
            "fp32_partitioned_groups_flat",
        ),
        *("get_param_id", "grad_position", "gradient_accumulation_dtype", "loss_scaler"),
        *("offload_optimizer", "offload_param", "overflow", "param_names"),
        *("reduce_bucket_size", "sub_group_to_group_id", "unflatten"),
    )

    @property
    def is_offloaded(self) -> bool:
        """Whether masters, gradients and optimizer state are in the host's memory."""
        return bool(self._zero.offload_optimizer and self._zero.offload_param)

    @property
    def sums_at_once(self) -> int:
        """How many elements of gradients are summed over the ranks at a time."""
        return int(self._zero.reduce_bucket_size)

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

    def group_names(self) -> list[list[str]]:
        """Return the names of the parameters of each group, on every rank alike."""
        zero = self._zero
        found: dict[int, list[str]] = {}
        for part, parameters in enumerate(zero.fp16_groups):
            names = (zero.param_names[p] for p in parameters)
            found.setdefault(zero.sub_group_to_group_id[part], []).extend(names)
        return [found[number] for number in sorted(found)]

    def _reduced(self) -> Iterator[tuple[Piece, torch.Tensor]]:
        zero = self._zero
        found = {
            zero.param_names[parameter]: grad
            for group, parameters in enumerate(zero.fp16_groups)
            for parameter, grad in zip(parameters, zero.averaged_gradients[group], strict=True)
        }
        for piece in self.pieces():
            yield piece, found[piece.fqn].narrow(0, 0, piece.end - piece.start)

    def settle(self, *, is_finite: bool) -> None:
        """Have the step follow our verdict, just before it."""
        # What is known already it would recompute, and wait for the device three times.
        self._zero.check_overflow = partial(setattr, self._zero, "overflow", not is_finite)
        self._zero._get_norm_groups = lambda: [1.0 if is_finite else math.nan]

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


def is_held_whole(parameter: Any) -> bool:
    """Whether every rank has all of a parameter under stage 3, also between calls of the model."""
    return bool(parameter.ds_persist and is_gathered(parameter))


def is_gathered(parameter: Any) -> bool:
    """Whether this rank has all of a parameter under stage 3 now."""
    return bool(parameter.ds_status.name == "AVAILABLE")


_LAYOUTS: dict[str, type[Stage12] | type[Stage3]] = {
    "DeepSpeedZeroOptimizer": Stage12,
    "DeepSpeedZeroOptimizer_Stage3": Stage3,
}


def layout_of(zero_optimizer: Any, version: str) -> Stage12 | Stage3:
    """Return the reader of this optimizer's layout.

    Raises:
        ConfigError: DeepSpeed built an optimizer that is not known here, or that lacks a name.
    """
    kind = type(zero_optimizer).__name__
    if kind not in _LAYOUTS:
        raise ConfigError(
            f"DeepSpeed {version} built a {kind}, whose state cannot be read here. Known are "
            f"{', '.join(_LAYOUTS)}. {INSTALL_TESTED}."
        )
    missing = [name for name in _LAYOUTS[kind].needs if not hasattr(zero_optimizer, name)]
    if missing:
        raise ConfigError(
            f"DeepSpeed {version} has no {', '.join(missing)} in its {kind}, which is needed here. "
            f"{INSTALL_TESTED}, or use --strategy fsdp."
        )
    return _LAYOUTS[kind](zero_optimizer)


def apply_step(
    engine: Any, layout: Stage12 | Stage3, scale: float, *, is_finite: bool, grad_norm: float
) -> None:
    """Have DeepSpeed divide the gradients by `scale` and update, or leave the step out.

    Called on every rank.

    Raises:
        ConfigError: it did the other thing.
    """
    scaler = engine.optimizer.loss_scaler
    scaler.cur_scale = scale
    # With gradients that are not finite the engine finds the overflow itself and clears them.
    layout.settle(is_finite=is_finite)
    engine.step()
    layout.forget_gradients()
    scaler.cur_scale = 1.0
    applied = not engine.optimizer.overflow
    if applied != is_finite:
        raise ConfigError(
            f"DeepSpeed {'applied' if applied else 'skipped'} a step whose gradient norm is "
            f"{grad_norm}. {INSTALL_TESTED}."
        )
