"""Which collectives hanging ranks are in: torch's record of NCCL, written when it is asked for.

torch writes it by itself only when NCCL's own timeout is over, half an hour later. It looks at its
pipe about once a second, in a thread of its own.
"""

import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from ...contract.environment import NCCL_TRACE

ANSWER_S = 5.0
_LOOK_S = 0.1


def ask_for_traces(pipes: Mapping[int, Path]) -> tuple[int, ...]:
    """Ask the ranks for their records; return those that listen. Never waits.

    Args:
        pipes: By rank; on CPUs torch makes none.
    """
    return tuple(rank for rank, pipe in pipes.items() if _ask(pipe))


def _ask(pipe: Path) -> bool:
    try:
        # Without a reader this fails at once, and never makes a file where no pipe is.
        fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, b"1")
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def wait_for_traces(folder: Path | None, asked: Collection[int], bound_s: float = ANSWER_S) -> str:
    """Return the end of the sentence that names the records; "": there are none to wait for.

    Args:
        folder: Of the attempt's logs, where they are written.
        asked: The ranks that write one.
        bound_s: How long to wait for all of them together.
    """
    if folder is None or not asked:
        return ""
    paths = {rank: folder / f"{NCCL_TRACE}{rank}" for rank in asked}
    end, sizes = time.monotonic() + bound_s, dict.fromkeys(asked, 0)
    while time.monotonic() < end:
        before, sizes = sizes, {rank: _size(path) for rank, path in paths.items()}
        if all(sizes.values()) and sizes == before:  # whole, as far as one can see
            break
        time.sleep(_LOOK_S)
    missing = [str(rank) for rank, size in sizes.items() if not size]
    if len(missing) == len(sizes):
        return f"; no rank wrote which collectives it was in within {bound_s:g} s"
    without = f", without that of rank{'s' * (len(missing) > 1)} {', '.join(missing)}"
    return (
        f"; which collectives they were in: {folder / NCCL_TRACE}* "
        f"(torchfrtrace reads them){without if missing else ''}"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
