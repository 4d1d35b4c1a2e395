"""The table of one place, and what of the targets is reached. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench_table import markdown_table

WARM_COPY = "warm copy in memory"
OURS, OURS_SYNCHRONOUS = "relaunch, in the background", "relaunch, synchronous"
OURS_FREE = "relaunch, in the background, cores free"
PLAIN = "plain write and sync"
PLAIN_BESIDE = "plain write and sync, beside the steps"
MIB = 2**20

Taken = Mapping[str, Mapping[str, Sequence[float]]]
"""Method, then quantity, to the values of all rounds."""


@dataclass(frozen=True, kw_only=True)
class Column:
    title: str
    key: str
    scale: float = 1.0
    digits: int = 3


COLUMNS = (
    Column(title="stall (ms)", key="stall_s", scale=1e3, digits=0),
    Column(title="training time lost (ms)", key="lost_s", scale=1e3, digits=0),
    Column(title="save (MiB/s per rank)", key="save_bytes_per_s", scale=1 / MIB, digits=0),
    Column(title="load (MiB/s per rank)", key="load_bytes_per_s", scale=1 / MIB, digits=0),
    Column(title="extra memory", key="extra_memory", digits=2),
    Column(title="bytes read", key="read_share", digits=3),
)


def place_table(where: str, taken: Taken) -> str:
    """Return the medians, with the middle half in brackets, and the targets below."""
    head = ["", *(column.title for column in COLUMNS)]
    rows = [[name, *(shown(values, c) for c in COLUMNS)] for name, values in taken.items()]
    return (
        f"**{where}**\n\n{markdown_table(head, rows)}\n\n"
        f"{markdown_table(['target', 'found', ''], targets(taken))}\n"
    )


def shown(values: Mapping[str, Sequence[float]], column: Column) -> str:
    """Return one cell; empty where this was not measured."""
    found = [value * column.scale for value in values.get(column.key, [])]
    if not found:
        return ""
    middle = f"{statistics.median(found):.{column.digits}f}"
    if len(found) < 4:
        return middle
    low, _, high = statistics.quantiles(found, n=4)
    return f"{middle} ({low:.{column.digits}f}-{high:.{column.digits}f})"


def targets(taken: Taken) -> list[list[str]]:
    """Return a row for each target: what it says, what was found, whether it is reached."""

    def median(name: str, key: str) -> float:
        return statistics.median(taken[name][key])

    peers = [name for name in taken if name.startswith(("torch", "DeepSpeed"))]
    best_stall = min(peers, key=lambda name: median(name, "stall_s"))
    best_lost = min(peers, key=lambda name: median(name, "lost_s"))
    to_plain = ratio_of_rounds(taken, OURS, PLAIN, "save_bytes_per_s")
    rows = [
        (
            "stall / warm copy <= 2",
            ratio_of_rounds(taken, OURS, WARM_COPY, "stall_s"),
            lambda found: found <= 2,
        ),
        (
            f"stall / that of {best_stall} < 1",
            ratio_of_rounds(taken, OURS, best_stall, "stall_s"),
            lambda found: found < 1,
        ),
        (
            f"training time lost / that of {best_lost} < 1",
            ratio_of_rounds(taken, OURS, best_lost, "lost_s"),
            lambda found: found < 1,
        ),
        (f"save throughput / {PLAIN} >= 0.8", to_plain, lambda found: found >= 0.8),
        *(
            (
                f"the same, {name} >= 0.8",
                ratio_of_rounds(taken, name, PLAIN, "save_bytes_per_s"),
                lambda found: found >= 0.8,
            )
            for name in (OURS_FREE, OURS_SYNCHRONOUS)
        ),
        (
            "bytes read / bytes needed <= 1.05",
            median(OURS, "read_share"),
            lambda found: found <= 1.05,
        ),
        (
            "extra memory of a save / one copy of the state <= 1.1 (the writer process included)",
            median(OURS, "extra_memory"),
            lambda found: found <= 1.1,
        ),
    ]
    to_beside = ratio_of_rounds(taken, OURS, PLAIN_BESIDE, "save_bytes_per_s")
    return [
        *(
            [text, f"{found:.2f}", "reached" if is_reached(found) else "missed"]
            for text, found, is_reached in rows
        ),
        [f"no target: save throughput / {PLAIN_BESIDE}", f"{to_beside:.2f}", ""],
    ]


def ratio_of_rounds(taken: Taken, name: str, other: str, key: str) -> float:
    """Return the median of the ratios within a round, which what disturbs both leaves alone."""
    pairs = zip(taken[name][key], taken[other][key], strict=True)
    return statistics.median(one / two for one, two in pairs)
