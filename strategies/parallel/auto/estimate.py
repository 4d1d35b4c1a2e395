"""Which strategy is chosen, from how many bytes a rank needs under each. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from ...errors import ConfigError
from .memory_model import MemoryNeed, ModelSizes, Spread, needs
from .offload_model import needs_offloaded

KEPT_FREE = 0.1
"""Share of the memory that is not planned with: fragmentation, and what nobody has counted."""
_MAX_RANKS = 4096
_NOT_MEASURED = (
    "; activations could not be measured and are NOT in these numbers. Pass forward=(function of "
    "model and batch) to run.prepare"
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A strategy, and why."""

    strategy: str
    reason: str
    table: str


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What else is asked, and which strategies can do it."""

    able: Sequence[str]
    """Strategies that can do all of it."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Strategies that cannot, and why."""
    offload: bool = False
    """State is kept on the host, whose memory counts then."""
    able_offloaded: Sequence[str] = ()
    """Strategies that could do all of it and offload; none where there is nothing to offload to."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a rank may use; a share of what is free is kept free."""

    device_bytes: int
    host_bytes: int | None = None
    """Of the host; None: not known, or not asked."""

    def holds(self, need: MemoryNeed) -> bool:
        """Whether it is enough."""
        if self.host_bytes is not None and need.host > self.host_bytes:
            return False
        return need.total <= self.device_bytes

    def sentence(self, *, with_host: bool) -> str:
        """Return it for people."""
        device = _shown(self.device_bytes)
        if not with_host or self.host_bytes is None:
            return device
        return f"{device} and, of the host, {_shown(self.host_bytes)}"


def choose(
    sizes: ModelSizes,
    wishes: Wishes,
    spread: Spread,
    *,
    memory_bytes: int,
    host_bytes: int | None = None,
) -> Choice:
    """Return the simplest strategy that fits.

    Nothing is refused for its activations alone: a fused kernel that nobody has measured may hold a
    small part of them. Then the strategy that needs the least is taken, and said to be a trial.

    Args:
        sizes: of the model.
        wishes: what else is asked.
        spread: over how many ranks.
        memory_bytes: the least that a rank's device has free.
        host_bytes: a rank's share of what the host has free; None: not known.

    Raises:
        ConfigError: none fits even without activations, with the smallest number of ranks on which
            one would.
    """
    memory = Memory(
        device_bytes=int(memory_bytes * (1 - KEPT_FREE)),
        host_bytes=None if host_bytes is None else int(host_bytes * (1 - KEPT_FREE)),
    )
    ranks, found = spread.ranks, _needs(sizes, wishes, spread)
    named = {n: why for n, why in wishes.left_out.items() if (n == "single") == (ranks == 1)}
    table = table_of(found, memory, named)
    fitting = [name for name, need in found.items() if memory.holds(need)]
    if fitting:
        reason = _reason(found, fitting[0], memory, where="" if ranks == 1 else " on each rank")
        if sizes.activation_bytes is None:
            reason += _NOT_MEASURED
        # On one rank there is nothing to compare, unless state is to leave it.
        return Choice(
            strategy=fitting[0], reason=reason, table="" if fitting == ["single"] else table
        )
    least = _least_without_activations(found, memory)
    if least is not None:
        return Choice(strategy=least, reason=_trial(found[least], memory, ranks), table=table)
    lines = [
        _nothing_fits(found, memory, ranks),
        table,
        _smallest(sizes, wishes, spread, memory),
        _offloading(sizes, wishes, spread, memory),
    ]
    raise ConfigError("\n".join(line for line in lines if line))


def _nothing_fits(found: Mapping[str, MemoryNeed], memory: Memory, ranks: int) -> str:
    what = "the model does not fit" if found.keys() == {"single"} else "no strategy fits"
    uses_host = any(need.host for need in found.values())
    where = "on this one rank" if ranks == 1 else f"on each of {ranks} ranks"
    return (
        f"{what} into the {memory.sentence(with_host=uses_host)} that may be used {where} "
        f"({KEPT_FREE:.0%} of what is free is kept free)."
    )


def _reason(found: Mapping[str, MemoryNeed], chosen: str, memory: Memory, *, where: str) -> str:
    why = "there is one rank" if chosen == "single" else "the simplest that fits"
    first, need = next(iter(found)), found[chosen]
    if first != chosen:
        why += f"; {first} would need {_shown(found[first].total)}"
        why += f" and {_shown(found[first].host)} on the host" if found[first].host else ""
    host = f", and {_shown(need.host)} on the host" if need.host else ""
    used = f"{_shown(need.total)} of {_shown(memory.device_bytes)} that may be used{where}"
    return f"{why}: {used}{host}"


def _least_without_activations(found: Mapping[str, MemoryNeed], memory: Memory) -> str | None:
    """Return what needs the least of the strategies that only their activations keep from fitting.

    None: there is none.
    """
    fitting = [n for n, need in found.items() if memory.holds(replace(need, activations=0))]
    return min(fitting, key=lambda name: found[name].total, default=None)


def _trial(need: MemoryNeed, memory: Memory, ranks: int) -> str:
    where = "" if ranks == 1 else " on each rank"
    return (
        f"it needs the least, but NOT LESS than may be used by this estimate: {_shown(need.total)} "
        f"of {_shown(memory.device_bytes)}{where}, {_shown(need.activations)} of it activations, "
        "which fused kernels may not hold. Where memory runs out, lower micro_batch, use "
        "checkpoint_blocks or --precision bf16"
    )


def _needs(sizes: ModelSizes, wishes: Wishes, spread: Spread) -> dict[str, MemoryNeed]:
    return (needs_offloaded if wishes.offload else needs)(sizes, wishes.able, spread)


def _smallest(sizes: ModelSizes, wishes: Wishes, spread: Spread, memory: Memory) -> str:
    whole = spread.shards == spread.ranks
    for more in range(spread.ranks + 1, _MAX_RANKS + 1):
        larger = replace(spread, ranks=more, shards=more if whole else spread.shards)
        found = _needs(sizes, wishes, larger)
        fitting = [name for name, need in found.items() if memory.holds(need)]
        if fitting:
            return (
                f"The smallest number of ranks that would be enough is {more}, with {fitting[0]}."
            )
    return (
        f"More ranks would not be enough, up to {_MAX_RANKS}: lower micro_batch, use "
        'checkpoint_blocks, --precision bf16 or init="by-name", or take larger GPUs.'
    )


def _offloading(sizes: ModelSizes, wishes: Wishes, spread: Spread, memory: Memory) -> str:
    """Return whether offloading would do on the ranks there are; "": it would not, or is asked."""
    if wishes.offload:
        return ""
    ranks = spread.ranks
    for name, need in needs_offloaded(sizes, wishes.able_offloaded, spread).items():
        if memory.holds(need):
            there = "the one rank" if ranks == 1 else f"the {ranks} ranks"
            unknown = ", whose free memory is not known" if memory.host_bytes is None else ""
            return (
                f"Or pass offload=True to run.prepare: {name} would then fit on {there}, with "
                f"{_shown(need.total)} on each GPU and {_shown(need.host)} a rank on the host"
                f"{unknown}."
            )
    return ""


def table_of(found: Mapping[str, MemoryNeed], memory: Memory, left_out: Mapping[str, str]) -> str:
    """Return bytes a rank by strategy, for people.

    Args:
        found: what each needs.
        memory: what there is.
        left_out: strategies that are not considered, and why.
    """
    offloads = any(need.host for need in found.values())
    heads = [each.name for each in fields(MemoryNeed) if each.name != "host"] + ["total"]
    heads += ["host"] if offloads else []
    lines = [f"{'strategy':>8}" + "".join(f"{head:>13}" for head in heads) + "  fits"]
    for name, need in found.items():
        values = "".join(f"{_shown(getattr(need, head)):>13}" for head in heads)
        lines.append(f"{name:>8}{values}  {'yes' if memory.holds(need) else 'no'}")
    lines += [f"{name:>8}  skipped: {why}" for name, why in left_out.items()]
    return "\n".join(lines)


def _shown(size_bytes: int) -> str:
    if size_bytes >= 1024**3:
        return f"{size_bytes / 1024**3:.1f} GiB"
    return f"{size_bytes / 1024**2:.1f} MiB"
