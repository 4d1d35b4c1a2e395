"""Where hanging ranks are: their own stacks where they listen for the question, else the kernel's.

A rank that listens (see `heartbeat.listen_for_stacks`) answers from a handler in C, so also while
it holds the interpreter's lock. Of another one the kernel knows in which call it waits.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...contract.files.heartbeat import STACK_SIGNAL
from ...workers.worker import Worker, catches

ANSWER_S = 3.0


def ask_for_stacks(workers: Mapping[Worker, Path]) -> str:
    """Return the stacks of all ranks as text; waits at most ANSWER_S for the answers.

    Args:
        workers: Each running rank, and the file into which it answers.
    """
    asked = {worker: path for worker, path in workers.items() if _listens(worker.pid)}
    for worker in asked:
        worker.tell(STACK_SIGNAL)
    end = time.monotonic() + ANSWER_S
    sizes: dict[Path, int] = {}
    while time.monotonic() < end:
        before, sizes = sizes, {path: _size(path) for path in asked.values()}
        if all(sizes.values()) and sizes == before:
            break
        time.sleep(0.1)
    return "\n".join(_one(worker, asked.get(worker)) for worker in workers)


def _one(worker: Worker, path: Path | None) -> str:
    text = ""
    if path is not None:
        with contextlib.suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines() or list(kernel_stacks(worker.pid))
    return "\n".join([f"rank {worker.rank} (pid {worker.pid}):", *(f"  {line}" for line in lines)])


def kernel_stacks(pid: int, proc: Path = Path("/proc")) -> Iterator[str]:
    """Yield what the kernel tells about each thread, the main one first: state, where it waits."""
    try:
        tids = [int(path.name) for path in (proc / str(pid) / "task").iterdir()]
    except (OSError, ValueError):
        return
    # Not by number alone: numbers start again at the bottom, also between two threads.
    tids.sort(key=lambda tid: (tid != pid, tid))
    threads = [proc / str(pid) / "task" / str(tid) for tid in tids]
    for thread in threads:
        state = next(
            (line for line in _read(thread / "status").splitlines() if line.startswith("State:")),
            "State: unknown",
        )
        where = _read(thread / "wchan").strip("0\n") or "user code"
        yield f"thread {thread.name} ({_read(thread / 'comm').strip()}), {state}, in {where}"
        for line in _read(thread / "stack").splitlines():
            yield f"  {line}"


def _listens(pid: int) -> bool:
    return catches(_read(Path(f"/proc/{pid}/status")), STACK_SIGNAL)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
