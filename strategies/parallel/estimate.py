"""Which strategy is chosen, from how many bytes a rank needs under each. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..errors import ConfigError
from .need import ModelSizes, Need, needs

KEPT_FREE = 0.1
"""Share of the memory that is not planned with: fragmentation, and what nobody has counted."""
_MAX_RANKS = 4096


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A strategy, and why."""

    strategy: str
    reason: str
    table: str


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
        why = "there is one rank" if ranks == 1 else "the simplest that fits"
        if too_large:
            why += f"; {', '.join(too_large)} would need {_shown(found[too_large[0]].total)}"
        need = _shown(found[fitting[0]].total)
        where = "" if ranks == 1 else " on each rank"
        reason = f"{why}: {need} of {_shown(usable)} that may be used{where}"
        if sizes.activation_bytes is None:
            reason += "; activations could not be measured and are NOT in these numbers"
        # Nothing to compare on one rank.
        return Choice(strategy=fitting[0], reason=reason, table="" if ranks == 1 else table)
    enough = _smallest(sizes, strategies, ranks, shards, by_name, usable)
    what = "the model does not fit" if ranks == 1 else "no strategy fits"
    where = "on this one rank" if ranks == 1 else f"on each of {ranks} ranks"
    raise ConfigError(
        f"{what} into the {_shown(usable)} that may be used {where} "
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
    heads = [field.name for field in fields(Need)] + ["total"]
    lines = [f"{'strategy':>8}" + "".join(f"{head:>13}" for head in heads) + "  fits"]
    for name, need in found.items():
        values = "".join(f"{_shown(getattr(need, head)):>13}" for head in heads)
        lines.append(f"{name:>8}{values}  {'yes' if need.total <= usable else 'no'}")
    return "\n".join(lines)


def _shown(size_bytes: int) -> str:
    if size_bytes >= 1024**3:
        return f"{size_bytes / 1024**3:.1f} GiB"
    return f"{size_bytes / 1024**2:.1f} MiB"
