"""What each strategy that offloads needs of a GPU, and what of the host. Pure.

Read in torch 2.13.0 and deepspeed 0.19.8, whose files are named where a number comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil

from .memory_model import (
    DEEPSPEED_LIVE,
    MASTER_BYTES,
    NEEDS,
    MemoryNeed,
    ModelSizes,
    Spread,
    bucket_bytes,
    flat_step,
)


def _fsdp(sizes: ModelSizes, spread: Spread, plain: MemoryNeed) -> MemoryNeed:
    """Keep shards, gradients and optimizer state on the host; compute in gathered blocks."""
    shard = ceil(max(sizes.root, sizes.largest_block) / spread.shards)
    # The shards of a block are copied over, and cast there, before they are gathered
    # (_fully_shard/_fsdp_param.py, all_gather_inputs). A rank's share of its gradients is there
    # until it is copied back (_fsdp_collectives.py, foreach_reduce).
    cast = sizes.compute_bytes if sizes.compute_bytes < MASTER_BYTES else 0
    return replace(
        plain,
        parameters=sizes.buffer_bytes,
        gradients=0,
        optimizer=0,
        buffers=plain.buffers + (2 * MASTER_BYTES + cast) * shard,
        stepping=0,
        # The model is built on the GPU and leaves it block by block; by name it never is there.
        building=sizes.buffer_bytes if spread.by_name else plain.building,
        host=plain.parameters + plain.gradients + plain.optimizer + plain.stepping,
    )


def _zero12(stage: int) -> Callable[[ModelSizes, Spread, MemoryNeed], MemoryNeed]:
    """Return what moves in zero/stage_1_and_2.py under `cpu_offload`: all but the weights."""

    def need(sizes: ModelSizes, spread: Spread, plain: MemoryNeed) -> MemoryNeed:
        low = sizes.compute_bytes * sizes.trainable
        whole = 0 if spread.by_name else MASTER_BYTES * sizes.trainable
        share = ceil(sizes.trainable / spread.ranks)
        # Stage 1 reduces when the last backward is over: until then all gradients are on the GPU.
        # Stage 2 takes them to the host as they are reduced, but of weights in bf16 it adds this
        # rank's share up on the GPU, in fp32 (_build_compact_grad_partition_buffer).
        leave = stage == 2 and sizes.compute_bytes == MASTER_BYTES
        # Masters, their gradients, and the weights on their way back (param_buffer_of_bit16).
        masters = (2 * MASTER_BYTES + sizes.compute_bytes) * share
        # The sums over micro-batches, of parameters that are partly this rank's all of them
        # (accumulated_grads_in_cpu), and a buffer for one (temp_grad_buffer_for_cpu_offload).
        summed = min(sizes.trainable, share + 2 * sizes.largest_parameter) if leave else 0
        sums = sizes.compute_bytes * (summed + sizes.largest_parameter)
        stepping = plain.optimizer + sums + flat_step(sizes, share)
        return replace(
            plain,
            parameters=low + sizes.frozen_bytes,
            gradients=0 if leave else plain.gradients,
            optimizer=0,
            # temp_grad_buffer_for_gpu_offload takes the largest parameter.
            buffers=plain.buffers + sizes.compute_bytes * sizes.largest_parameter,
            stepping=0,
            building=max(whole, 2 * low) + sizes.frozen_bytes,
            # The copies that prove the layout are there until the model is built.
            host=masters + max(whole, stepping),
        )

    return need


def _zero3(sizes: ModelSizes, spread: Spread, plain: MemoryNeed) -> MemoryNeed:
    """Return what moves in zero/stage3.py when optimizer and parameters are offloaded: all."""
    frozen = sizes.frozen_bytes - sizes.buffer_bytes
    whole = 0 if spread.by_name else MASTER_BYTES * sizes.trainable
    share = ceil(sizes.trainable / spread.ranks)
    # A gradient's share comes back to be added to (partition_grads).
    returned = 2 * MASTER_BYTES * ceil(sizes.largest_parameter / spread.ranks)
    # Weights, masters, and gradients twice: summed (grad_partitions_flat_buffer), and to step with.
    kept = (sizes.compute_bytes + 3 * MASTER_BYTES) * share + ceil(frozen / spread.ranks)
    return replace(
        plain,
        parameters=sizes.buffer_bytes,
        gradients=0,
        optimizer=0,
        # What is not trained is gathered like the rest.
        buffers=plain.buffers + min(frozen, sizes.compute_bytes * DEEPSPEED_LIVE) + returned,
        stepping=bucket_bytes(sizes, sizes.compute_bytes),
        building=(
            MASTER_BYTES * sizes.largest_parameter + sizes.buffer_bytes
            if spread.by_name
            else whole + sizes.frozen_bytes
        ),
        # The copies that prove the layout, and a master beside its copy, are gone when it steps.
        host=kept + max(whole + MASTER_BYTES * share, plain.optimizer + flat_step(sizes, share)),
    )


_MOVES: dict[str, Callable[[ModelSizes, Spread, MemoryNeed], MemoryNeed]] = {
    "fsdp": _fsdp,
    "zero1": _zero12(1),
    "zero2": _zero12(2),
    "zero3": _zero3,
}


def needs_offloaded(
    sizes: ModelSizes, strategies: Sequence[str], spread: Spread
) -> dict[str, MemoryNeed]:
    """Return what `needs` does, with `offload=True`. One rank can offload too."""
    return {
        name: move(sizes, spread, NEEDS[name](sizes, spread))
        for name, move in _MOVES.items()
        if name in strategies
    }
