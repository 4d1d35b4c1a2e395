"""The launcher's last words about a failure; pure functions from outcomes to text."""

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from ...contract.exit_codes import CONTINUE, DONE, NOTICES, RankEnd
from ...contract.files.error_file import ErrorRecord
from ...contract.preemption import signal_name

TAIL_LINES = 20


def failure_report(
    first: RankEnd,
    outcomes: Sequence[RankEnd],
    *,
    record: ErrorRecord | None = None,
    log_path: Path | None = None,
    tail: Sequence[str] = (),
    exception: str | None = None,
    num_oom_kills: int = 0,
    warned: bool = False,
) -> str:
    """Return the report on the first failure; those that failed as a result are only counted.

    Args:
        first: The rank that failed first by itself.
        outcomes: The end of every rank, this one included.
        record: What the rank left in its error file.
        log_path: The file with its whole output, if there is one.
        tail: The last lines of its output, unless the console has just shown them.
        exception: The exception that its output names.
        num_oom_kills: Processes which the kernel's OOM killer ended meanwhile.
        warned: The run had received a preemption notice.
    """
    lines = []
    if tail:
        lines.append(f"the last lines of rank {first.rank}:")
        lines.extend(f"  {line}" for line in tail)
    who = f"rank {first.rank} (local rank {first.local_rank}, pid {first.pid})"
    lines.append(f"{who} {how_it_ended(first.status, num_oom_kills=num_oom_kills)}.")
    if record is not None:
        lines.extend(record.message.splitlines())
    elif exception is not None:
        lines.append(exception)
    if warned and (text := own_command_text(exception if record is None else record.message)):
        lines.append(text)
    if log_path is not None:
        lines.append(f"its whole output: {log_path}")
    num_fallen = sum(o.status not in (DONE, CONTINUE) for o in outcomes if o.rank != first.rank)
    if num_fallen:
        what = "1 other rank" if num_fallen == 1 else f"{num_fallen} other ranks"
        lines.append(f"{what} failed as a result.")
    return "\n".join(lines)


_DIED = re.compile(r"Command (?P<command>.+?) died with <Signals\.(?P<signal>SIG\w+): \d+>", re.S)
"""In the words of subprocess.CalledProcessError."""


def own_command_text(words: str | None) -> str | None:
    """Return a sentence on a command of the script's own that died of the notice; None: none did.

    Args:
        words: What the rank failed with.
    """
    found = None if words is None else _DIED.search(words)
    if found is None or found["signal"] not in {notice.name for notice in NOTICES}:
        return None
    return (
        f"the command {found['command']}, which the script had started, was ended by "
        f"{found['signal']}: it also received the notice. Start it in a session of its own "
        "(start_new_session=True), or catch this error after a preemption notice."
    )


def how_it_ended(status: int | None, *, num_oom_kills: int = 0) -> str:
    """Return "failed with exit code 42", or what killed it."""
    if status is None:
        return "did not end, even after SIGKILL"
    if status >= 0:
        return f"failed with exit code {status}"
    name = signal_name(-status)
    if status != -signal.SIGKILL:
        return f"was killed by {name}"
    if num_oom_kills:
        processes = "1 process" if num_oom_kills == 1 else f"{num_oom_kills} processes"
        return f"was killed by {name}: out of memory, the kernel's OOM killer ended {processes}"
    return f"was killed by {name} (often the kernel, when memory runs out)"
