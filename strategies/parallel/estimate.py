"""How many bytes a rank needs under each strategy, and which strategy is chosen. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil

from ..errors import ConfigError

MASTER_BYTES = 4
KEPT_FREE = 0.1
"""Share of the memory that is not planned with: fragmentation, and what nobody has counted."""
_MAX_RANKS = 4096
_DDP_BUCKET_BYTES = 25 * 1024**2
_DEEPSPEED_BUCKET = 500_000_000
"""Elements that DeepSpeed reduces at a time (reduce_bucket_size)."""
_DEEPSPEED_LIVE = 1_000_000_000
"""Elements of gathered weights that stage 3 lets live (stage3_max_live_parameters)."""


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """What was measured of a model, an optimizer and one micro-batch, without memory."""

    trainable: int
    """Elements of all trainable parameters."""
    frozen_bytes: int
    """Parameters that are not trained, and buffers."""
    optimizer_bytes: int
    """The optimizer's state of all parameters."""
    largest_block: int
    """Elements of the largest block that fsdp would shard on its own."""
    root: int
    """Elements of what fsdp leaves to the root."""
    compute_bytes: int
    """Bytes of an element in forward and backward."""
    activation_bytes: int | None
    """Most that a forward and backward of one micro-batch holds; None: it could not be measured."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of one rank."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    """What the strategy itself gathers, reduces and copies."""
    building: int
    """The most while the model is built, before it trains."""

    @property
    def total(self) -> int:
        """The most at any time."""
        training: int = sum(asdict(self).values()) - self.building
        return max(training, self.building)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A strategy, and why."""

    strategy: str
    reason: str
    table: str


def _replicated(sizes: ModelSizes, ranks: int, shards: int, by_name: bool) -> Need:
    own = MASTER_BYTES * sizes.trainable
    casts = sizes.compute_bytes * sizes.trainable if sizes.compute_bytes < MASTER_BYTES else 0
    bucket = min(own, _DDP_BUCKET_BYTES) if ranks > 1 else 0
    return Need(
        parameters=own + sizes.frozen_bytes,
        gradients=own,
        optimizer=sizes.optimizer_bytes,
        activations=sizes.activation_bytes or 0,
        buffers=casts + bucket,
        building=own + sizes.frozen_bytes,
    )


def _fsdp(sizes: ModelSizes, ranks: int, shards: int, by_name: bool) -> Need:
    own = ceil((MASTER_BYTES * sizes.trainable + sizes.frozen_bytes) / shards)
    whole = MASTER_BYTES * sizes.trainable + sizes.frozen_bytes
    # The root stays gathered; of the blocks, one computes while the next is gathered. The
    # gradient of one is there whole, and once more as what is sent.
    gathered = sizes.compute_bytes * (sizes.root + 2 * sizes.largest_block)
    largest = max(sizes.root, sizes.largest_block)
    return Need(
        parameters=own,
        gradients=ceil(MASTER_BYTES * sizes.trainable / shards),
        optimizer=ceil(sizes.optimizer_bytes / shards),
        activations=sizes.activation_bytes or 0,
        buffers=gathered + (sizes.compute_bytes + MASTER_BYTES) * largest,
        building=own if by_name else whole + own,
    )


def _zero(stage: int) -> Callable[[ModelSizes, int, int, bool], Need]:
    def need(sizes: ModelSizes, ranks: int, shards: int, by_name: bool) -> Need:
        low = sizes.compute_bytes * sizes.trainable
        share = ceil(MASTER_BYTES * sizes.trainable / ranks)
        buffers = sizes.compute_bytes * min(sizes.trainable, _DEEPSPEED_BUCKET)
        if stage == 3:
            buffers += sizes.compute_bytes * min(sizes.trainable, _DEEPSPEED_LIVE)
        kept = ceil(low / ranks) if stage == 3 else low
        return Need(
            parameters=kept + share + sizes.frozen_bytes,
            gradients=share + (low if stage == 1 else 0),
            optimizer=ceil(sizes.optimizer_bytes / ranks),
            activations=sizes.activation_bytes or 0,
            buffers=buffers,
            building=MASTER_BYTES * sizes.trainable + low + share + sizes.frozen_bytes,
        )

    return need


# Simplest first: replicas; torch's own sharding; DeepSpeed's, from the least to the most.
_NEEDS: dict[str, Callable[[ModelSizes, int, int, bool], Need]] = {
    "single": _replicated,
    "ddp": _replicated,
    "fsdp": _fsdp,
    "zero1": _zero(1),
    "zero2": _zero(2),
    "zero3": _zero(3),
}


def needs(
    sizes: ModelSizes, strategies: Sequence[str], *, ranks: int, shards: int, by_name: bool
) -> dict[str, Need]:
    """Return what each strategy that can run on so many ranks needs, simplest first.

    Args:
        sizes: of the model.
        strategies: those that can do what else is asked.
        ranks: of the run.
        shards: ranks over which fsdp shards; the rest are replicas.
        by_name: the model is built without memory where the strategy can.
    """
    return {
        name: need(sizes, ranks, shards, by_name)
        for name, need in _NEEDS.items()
        if name in strategies and (name == "single") == (ranks == 1)
    }


def choose(
    sizes: ModelSizes,
    strategies: Sequence[str],
    *,
    ranks: int,
    shards: int,
    by_name: bool,
    memory_bytes: int,
) -> Choice:
    """Return the simplest strategy that fits; arguments as of `needs`.

    Raises:
        ConfigError: none fits, with the smallest number of ranks on which one would.
    """
    usable = int(memory_bytes * (1 - KEPT_FREE))
    found = needs(sizes, strategies, ranks=ranks, shards=shards, by_name=by_name)
    table = table_of(found, usable)
    fitting = [name for name, need in found.items() if need.total <= usable]
    if fitting:
        too_large = [n for n in found if n not in fitting and list(found).index(n) < 1]
        why = "the simplest that fits"
        if too_large:
            why += f"; {', '.join(too_large)} would need {_shown(found[too_large[0]].total)}"
        need = _shown(found[fitting[0]].total)
        reason = f"{why}: {need} of {_shown(usable)} that may be used on each rank"
        if sizes.activation_bytes is None:
            reason += "; activations could not be measured and are NOT in these numbers"
        return Choice(strategy=fitting[0], reason=reason, table=table)
    enough = _smallest(sizes, strategies, ranks, shards, by_name, usable)
    raise ConfigError(
        f"no strategy fits into the {_shown(usable)} that may be used on each of {ranks} ranks "
        f"({KEPT_FREE:.0%} of what is free is kept free).\n{table}\n{enough}"
    )


def _smallest(
    sizes: ModelSizes,
    strategies: Sequence[str],
    ranks: int,
    shards: int,
    by_name: bool,
    usable: int,
) -> str:
    for more in range(ranks + 1, _MAX_RANKS + 1):
        spread = needs(
            sizes, strategies, ranks=more, shards=min(shards, more) if shards < ranks else more,
            by_name=by_name,
        )  # fmt: skip
        fitting = [name for name, need in spread.items() if need.total <= usable]
        if fitting:
            return f"The smallest number that would do is {more} of these ranks, with {fitting[0]}."
    return (
        f"More ranks would not do, up to {_MAX_RANKS}: lower micro_batch, use checkpoint_blocks, "
        '--precision bf16 or init="by-name", or take larger GPUs.'
    )


def table_of(found: dict[str, Need], usable: int) -> str:
    """Return bytes a rank by strategy, for people."""
    heads = ("parameters", "gradients", "optimizer", "activations", "buffers", "building", "total")
    lines = [f"{'strategy':>8}" + "".join(f"{head:>13}" for head in heads) + "  fits"]
    for name, need in found.items():
        values = "".join(f"{_shown(getattr(need, head)):>13}" for head in heads)
        lines.append(f"{name:>8}{values}  {'yes' if need.total <= usable else 'no'}")
    return "\n".join(lines)


def _shown(size_bytes: int) -> str:
    if size_bytes >= 1024**3:
        return f"{size_bytes / 1024**3:.1f} GiB"
    return f"{size_bytes / 1024**2:.1f} MiB"
