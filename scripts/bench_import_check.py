"""Measure how long it takes to prove that the chunks of a large DCP checkpoint are its tensors.

    .venv/bin/python scripts/bench_import_check.py [--ranks N] [--tensors N]

In each layout every rank holds one chunk of each tensor. What is measured is the CPU time of the
check alone, `checkpointing.importing.boxes.require_cover`; nothing is read from a disk.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

from checkpointing.importing.boxes import require_cover


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


def rows(ranks: int) -> tuple[tuple[int, ...], list[Chunk]]:
    """Return a tensor's shape and its chunks, cut along its rows, as fully_shard does."""
    return (2 * ranks, 512), [Chunk((2 * rank, 0), (2, 512)) for rank in range(ranks)]


def mesh(ranks: int) -> tuple[tuple[int, ...], list[Chunk]]:
    """Return the same, cut along rows and columns, as with tensor parallelism beside it."""
    down = 2 ** (int(math.log2(ranks)) // 2)
    across = ranks // down
    chunks = [Chunk((2 * i, 4 * k), (2, 4)) for i in range(down) for k in range(across)]
    return (2 * down, 4 * across), chunks


def main() -> None:
    """Print the seconds of each layout."""
    parser = argparse.ArgumentParser(description="Measure the check of a DCP checkpoint's chunks.")
    parser.add_argument("--ranks", type=int, default=1024, metavar="N")
    parser.add_argument("--tensors", type=int, default=3000, metavar="N")
    given = parser.parse_args()
    for layout in (rows, mesh):
        shape, chunks = layout(given.ranks)
        began_s = time.process_time()
        for number in range(given.tensors):
            require_cover(Path(".metadata"), f"layers.{number}", shape, chunks)
        spent_s = time.process_time() - began_s
        print(
            f"{layout.__name__}: {given.tensors} tensors of {len(chunks)} chunks, "
            f"{spent_s:.1f} s of CPU time"
        )


if __name__ == "__main__":
    main()
