"""Which rank's output the console shows, and with what before its lines: pure decisions."""

import string
from collections.abc import Mapping
from dataclasses import dataclass

from ...plan.options import Std, StreamOptions

STDOUT = 1
STDERR = 2
BOTH = STDOUT | STDERR

PREFIX_TEMPLATE = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"
"""torchrun's variable: ${role_name}, ${rank}, ${local_rank} and ${hostname} are filled in."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What the console shows of one rank."""

    streams: int
    """Bits: 1 stdout, 2 stderr."""
    prefix: str = ""
    """Before each line; empty: the output passes as it comes, not by lines."""
    alone: bool = False
    """No other rank of this node is shown."""


def shares(
    options: StreamOptions,
    *,
    ranks: Mapping[int, int],
    role: str,
    has_logs: bool,
    hostname: str,
    template: str | None = None,
) -> dict[int, Share]:
    """Return what the console shows of each rank of this node.

    Without any wish it is rank 0 where the others' output is in files, else all of them.

    Args:
        options: What was asked.
        ranks: Rank to local rank.
        role: The ranks' role, for the template.
        has_logs: The output is in files as well.
        hostname: This node's, without its domain, for the template.
        template: PREFIX_TEMPLATE's value; the option wins over it.
    """
    shown = {
        rank: _shown(options, rank, local_rank, has_logs=has_logs)
        for rank, local_rank in ranks.items()
    }
    template = options.prefix_template or template
    alone = sum(bits > 0 for bits in shown.values()) == 1
    found = {}
    for rank, bits in shown.items():
        prefix = "" if alone or rank == 0 else f"[rank {rank}] "
        if template:
            names = {"role_name": role, "rank": rank, "local_rank": ranks[rank]}
            prefix = string.Template(template).safe_substitute(names, hostname=hostname)
        found[rank] = Share(streams=bits, prefix=prefix, alone=alone)
    return found


def wants_logs(options: StreamOptions) -> bool:
    """Return whether something that was asked needs files."""
    wishes = (options.redirects, options.tee)
    filters = (*options.stdout_filters, *options.stderr_filters)
    return bool(filters) or any(bits for wish in wishes for bits in _all_bits(wish))


def _shown(options: StreamOptions, rank: int, local_rank: int, *, has_logs: bool) -> int:
    if options.shown is not None and local_rank not in options.shown:
        return 0
    if options.redirects is not None or options.tee is not None:
        kept = BOTH & ~_bits(options.redirects, local_rank)
        return kept | _bits(options.tee, local_rank)
    if options.shown is None and has_logs and rank != 0:
        return 0
    return BOTH


def _bits(wish: Std | None, local_rank: int) -> int:
    if wish is None:
        return 0
    return wish if isinstance(wish, int) else wish.get(local_rank, 0)


def _all_bits(wish: Std | None) -> list[int]:
    if wish is None:
        return []
    return [wish] if isinstance(wish, int) else list(wish.values())
