"""How many bytes a rank needs under each strategy, from what the engines hold. Pure.

Read in torch 2.13.0 and deepspeed 0.19.8, whose files are named where a number comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from ..gradients.partition_sums import BUCKET_ELEMENTS

MASTER_BYTES = 4
_SUM_BYTES = 8
"""An element of a gradient that is summed in float64 (gradients/gradient_sums.py, sharded_sums.py,
partition_sums.py)."""
_SQUARE_BYTES = 16
"""An element of a gradient in float64, and its square (grad_norm.py)."""
_DDP_BROADCAST_BYTES = 250 * 1024**2
"""What DDP packs to send parameters once (torch/nn/parallel/distributed.py, broadcast_bucket_size).
"""
DEEPSPEED_BUCKET = 500_000_000
"""Elements that DeepSpeed reduces at a time (zero/config.py, reduce_bucket_size)."""
DEEPSPEED_LIVE = 1_000_000_000
"""Elements of gathered weights that stage 3 lets live (zero/config.py, max_live_parameters)."""
_DEEPSPEED_PREFETCH = 50_000_000
"""Elements that stage 3 gathers at once (zero/config.py, prefetch_bucket_size)."""


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """What was measured of a model, an optimizer and one micro-batch, without memory."""

    trainable: int
    """Elements of all trainable parameters."""
    largest_parameter: int
    """Elements of the largest of them."""
    frozen_bytes: int
    """Parameters that are not trained, and buffers."""
    buffer_bytes: int
    """Of these, the buffers."""
    optimizer_bytes: int
    """The optimizer's state of all parameters."""
    stepping_bytes: int
    """The most that the optimizer makes for a moment, stepping all parameters one by one."""
    stepping_element_bytes: int
    """The same for an element, where all parameters are one flat tensor."""
    largest_block: int
    """Elements of the largest block that fsdp would shard on its own."""
    root: int
    """Elements of what fsdp leaves to the root."""
    compute_bytes: int
    """Bytes of an element in forward and backward."""
    activation_bytes: int | None
    """Most that a micro-batch, its forward and its backward hold where the weights are cast; None:
    it could not be measured."""
    autocast_bytes: int | None = None
    """The same under autocast, which leaves more in fp32; None: as where the weights are cast."""
    exact: bool = False
    """Gradients are summed in float64 (`--exact`)."""
    accumulates: bool
    """Whether a rank has more than one micro-batch in a step."""
    on_host: bool
    """Whether this is the host's memory: taken page by page as it is written, gloo's copies in it.
    """


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes of one rank, on its device unless noted."""

    parameters: int
    gradients: int
    optimizer: int
    buffers: int
    """What the strategy gathers, packs and casts, all through forward and backward."""
    activations: int
    reducing: int
    """Made for a moment while gradients are reduced, when the activations are gone."""
    stepping: int
    """Made for a moment while the optimizer steps, when activations and buffers are gone."""
    building: int
    """The most while the model is built, before it trains."""
    host: int = 0
    """The most in the host's memory, beside a GPU's: what is offloaded is kept and stepped there,
    and ZeRO proves its layout there while the model is built; not in `total`."""

    @property
    def total(self) -> int:
        """The most at any time."""
        kept = self.parameters + self.gradients + self.optimizer
        passing = self.buffers + max(self.activations, self.reducing)
        return max(kept + passing, kept + self.stepping, self.building)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Over how many ranks, and how the model gets there."""

    ranks: int
    """Of the run."""
    shards: int
    """Ranks over which fsdp shards; the rest are replicas."""
    by_name: bool
    """The model is built without memory where the strategy can."""


def _replicated(sizes: ModelSizes, spread: Spread) -> MemoryNeed:
    own = MASTER_BYTES * sizes.trainable
    # Autocast keeps what it has cast until the forward ends, and the graph until the backward.
    casts = sizes.compute_bytes * sizes.trainable if sizes.compute_bytes < MASTER_BYTES else 0
    # Exact sums are kept in place of the reducer's buckets, and of what accumulates beside them; a
    # step's only gradients are held as they are, and their totals beside them.
    sum_bytes = _SUM_BYTES if sizes.accumulates else MASTER_BYTES
    sums = sum_bytes * sizes.trainable if sizes.exact else 0
    # The reducer's buckets hold every gradient once and live as long as DDP does (distributed.py,
    # gradient_as_bucket_view: "gradients will be views pointing to different offsets of allreduce
    # communication buckets"). A backward without all-reduce accumulates beside them, until the
    # last one of the step copies into them.
    reduces = spread.ranks > 1 and not sizes.exact
    beside = own if reduces and sizes.accumulates else 0
    sent = min(own, _DDP_BROADCAST_BYTES) if reduces else 0
    activations = sizes.activation_bytes if sizes.autocast_bytes is None else sizes.autocast_bytes
    return MemoryNeed(
        parameters=own + sizes.frozen_bytes,
        gradients=own + sums,
        optimizer=sizes.optimizer_bytes,
        buffers=casts + beside,
        activations=activations or 0,
        reducing=0,
        stepping=max(sizes.stepping_bytes, _squares(sizes, sizes.largest_parameter)),
        building=own + sizes.frozen_bytes + sent,
    )


def _fsdp(sizes: ModelSizes, spread: Spread) -> MemoryNeed:
    shards = spread.shards
    whole = MASTER_BYTES * sizes.trainable + sizes.frozen_bytes
    own = ceil(whole / shards)
    largest = max(sizes.root, sizes.largest_block)
    # The root stays gathered; of the blocks, one computes while the next is gathered. Then all
    # gradients of one are there, and once more as what is sent (_fully_shard/_fsdp_collectives.py,
    # foreach_reduce: reduce_scatter_input); gloo reduces in a copy of that.
    gathered = sizes.compute_bytes * (sizes.root + 2 * sizes.largest_block)
    sent = (2 if sizes.on_host else 1) * (_SUM_BYTES if sizes.exact else MASTER_BYTES) * largest
    gradient_bytes = MASTER_BYTES + (_SUM_BYTES if sizes.exact else 0)
    # A block is sharded after the other, and each lets go of its whole parameters.
    building = (
        own + _drawn(sizes) if spread.by_name else whole + ceil(MASTER_BYTES * largest / shards)
    )
    return MemoryNeed(
        parameters=own,
        gradients=ceil(gradient_bytes * sizes.trainable / shards),
        optimizer=ceil(sizes.optimizer_bytes / shards),
        buffers=gathered + sizes.compute_bytes * largest + sent,
        activations=sizes.activation_bytes or 0,
        reducing=0,
        stepping=ceil(max(sizes.stepping_bytes, _squares(sizes, sizes.largest_parameter)) / shards),
        building=building,
    )


def _drawn(sizes: ModelSizes) -> int:
    """Return what drawing one parameter by name takes: what was drawn, and the copy that is given.

    deferred_init.py, `_replay`.
    """
    return 2 * MASTER_BYTES * sizes.largest_parameter


def bucket_bytes(sizes: ModelSizes, element_bytes: int) -> int:
    """Return what DeepSpeed's bucket takes: a GPU's is there whole, a host's as far as written."""
    written = min(sizes.trainable, DEEPSPEED_BUCKET)
    return element_bytes * (written if sizes.on_host else DEEPSPEED_BUCKET)


def _exact_bucket(sizes: ModelSizes) -> int:
    """Return what exact sums under ZeRO keep for a bucket: gradients/partition_sums.py."""
    return _SUM_BYTES * _exact_bucket_elements(sizes)


def _exact_buffers(sizes: ModelSizes) -> int:
    """Return the bucket, what gloo reduces it in, and the gradients that wait for it to be full."""
    bucket = _exact_bucket(sizes)
    waiting = sizes.compute_bytes * _exact_bucket_elements(sizes)
    return (2 if sizes.on_host else 1) * bucket + waiting


def _exact_bucket_elements(sizes: ModelSizes) -> int:
    return max(min(sizes.trainable, BUCKET_ELEMENTS), sizes.largest_parameter)


def flat_step(sizes: ModelSizes, share: int) -> int:
    """Return what a step over one flat share makes; `share` in elements."""
    squares = _squares(sizes, min(sizes.largest_parameter, share))
    return max(sizes.stepping_element_bytes * share, squares)


def _squares(sizes: ModelSizes, elements: int) -> int:
    """Return what the norm of so many elements makes: a GPU adds up in float64 without copies."""
    return _SQUARE_BYTES * elements if sizes.on_host else 0


def _zero12(stage: int) -> Callable[[ModelSizes, Spread], MemoryNeed]:
    """Return the need of zero/stage_1_and_2.py."""

    def need(sizes: ModelSizes, spread: Spread) -> MemoryNeed:
        low = sizes.compute_bytes * sizes.trainable
        whole = MASTER_BYTES * sizes.trainable
        share = ceil(sizes.trainable / spread.ranks)
        mixed = sizes.compute_bytes < MASTER_BYTES
        # Stage 1 keeps all gradients until the backward is over, those in bf16 beside their fp32
        # sums (fill_grad_accum_attribute), and moves them into the bucket one after the other.
        # Stage 2 fills the bucket during the backward.
        if stage == 1:
            gradients = whole + (low if mixed else 0)
            bucket = 0 if sizes.on_host else bucket_bytes(sizes, MASTER_BYTES)
        else:
            gradients = MASTER_BYTES * share
            bucket = bucket_bytes(sizes, sizes.compute_bytes)
        # allreduce_bucket flattens what goes to one rank, and casts that to fp32; what comes back
        # is added to this rank's share.
        reducing = (MASTER_BYTES + sizes.compute_bytes + (MASTER_BYTES if mixed else 0)) * share
        # `step` flattens the gradients, lets go of their parts, and then updates.
        stepping = max(MASTER_BYTES * share, flat_step(sizes, share))
        if sizes.exact:
            # The totals in fp32 are made for the step, which flattens them once more.
            gradients, bucket, reducing = _SUM_BYTES * share, _exact_buffers(sizes), 0
            stepping = _exact_bucket(sizes) + MASTER_BYTES * share + stepping
        # The copies of every parameter that zero.py proves the layout with are on the host. The
        # flat buffer is made beside the cast parameters, the masters when those are gone.
        initial = whole if sizes.on_host else 0
        building = initial + max(whole, 2 * low, low + MASTER_BYTES * share)
        if spread.by_name:
            building = max(2 * low, low + MASTER_BYTES * share + _drawn(sizes))
        return MemoryNeed(
            parameters=low + MASTER_BYTES * share + sizes.frozen_bytes,
            gradients=gradients,
            optimizer=ceil(sizes.optimizer_bytes / spread.ranks),
            buffers=bucket,
            activations=sizes.activation_bytes or 0,
            reducing=reducing,
            stepping=stepping,
            building=building + sizes.frozen_bytes,
            host=_initial_on_host(sizes, spread),
        )

    return need


def _initial_on_host(sizes: ModelSizes, spread: Spread) -> int:
    """Return the copies with which zero.py proves the layout, where a GPU's run has them."""
    return 0 if sizes.on_host or spread.by_name else MASTER_BYTES * sizes.trainable


def _zero3(sizes: ModelSizes, spread: Spread) -> MemoryNeed:
    """Return the need of zero/stage3.py."""
    whole = MASTER_BYTES * sizes.trainable
    share = ceil(sizes.trainable / spread.ranks)
    bucket = bucket_bytes(sizes, sizes.compute_bytes)
    # Up to max_live_parameters stay gathered from first use to last. What one all-gather brought
    # is copied parameter by parameter (zero/partition_parameters.py, AllGatherCoalescedHandle) and
    # let go when the last of them was used.
    gathered = min(sizes.trainable, DEEPSPEED_LIVE) + min(sizes.trainable, _DEEPSPEED_PREFETCH)
    # _create_fp32_partitions compares a device with a text, which are never equal, so the masters
    # are a copy of the computing shards in fp32 too.
    kept = (sizes.compute_bytes + MASTER_BYTES) * share
    # Parameters are cut one after the other. The copies that prove the layout stay meanwhile, and
    # initialize_optimizer_states makes a buffer beside the gradients.
    initial = whole if sizes.on_host else 0
    building = initial + max(whole, kept + 2 * MASTER_BYTES * share)
    # reduce_scatter_coalesced (runtime/comm/coalesced_collectives.py) packs a bucket in fp32.
    reducing = MASTER_BYTES * min(sizes.trainable, DEEPSPEED_BUCKET)
    passing, gradients = bucket, MASTER_BYTES * share
    if sizes.exact:
        # Beside the shares of gradients, in which the step looks for the totals.
        gradients += _SUM_BYTES * share
        bucket, passing, reducing = _exact_bucket(sizes), _exact_buffers(sizes), 0
    if spread.by_name:
        # A host's zeros take no memory before they are written.
        zeros = 0 if sizes.on_host else MASTER_BYTES * share
        building = kept + MASTER_BYTES * share + max(zeros, _drawn(sizes))
    return MemoryNeed(
        parameters=kept + sizes.frozen_bytes,
        gradients=gradients,
        optimizer=ceil(sizes.optimizer_bytes / spread.ranks),
        buffers=passing + sizes.compute_bytes * gathered,
        activations=sizes.activation_bytes or 0,
        reducing=reducing,
        # The bucket stays; `_prepare_fp32_grad_for_sub_group` copies the gradients.
        stepping=bucket + MASTER_BYTES * share + flat_step(sizes, share),
        building=sizes.frozen_bytes + building,
        host=_initial_on_host(sizes, spread),
    )


# Simplest first: replicas; torch's own sharding; DeepSpeed's, from the least to the most.
NEEDS: dict[str, Callable[[ModelSizes, Spread], MemoryNeed]] = {
    "single": _replicated,
    "ddp": _replicated,
    "fsdp": _fsdp,
    "zero1": _zero12(1),
    "zero2": _zero12(2),
    "zero3": _zero3,
}


def needs(sizes: ModelSizes, strategies: Sequence[str], spread: Spread) -> dict[str, MemoryNeed]:
    """Return what each strategy that can run on so many ranks needs, simplest first.

    Only those are looked at that can do what else is asked.
    """
    return {
        name: need(sizes, spread)
        for name, need in NEEDS.items()
        if name in strategies and (name == "single") == (spread.ranks == 1)
    }
