"""What `scontrol show` says about a job, a partition and the site, as values; pure.

Names, comments and paths are free text and may look like fields, over several lines even. So a
field is read from its own line of the record only, and lines only where they stand: the job's name
comes before the line of its user, paths and comments after that of its partition. (Seen on 22.05.)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

_PAIR = re.compile(r"(?:^|\s)([A-Za-z][\w:/]*)=(\S*)")
_OWNER = "UserId="
"""Begins the first line after the job's name."""
_LINES = ("JobState=", "Requeue=", "StartTime=", "PreemptEligibleTime=", "PreemptTime=")
"""What the lines of a job begin with that hold no free text; each is there once."""
_FIELD_LINE = re.compile(r"   [A-Za-z][\w:/]*=")
_LAST_LINE = "Partition="
_DURATION = re.compile(r"(?:(?P<d>\d+)-)?(?:(?P<a>\d+):)?(?:(?P<b>\d+):)?(?P<c>\d+)")
_NEVER = frozenset({"", "None", "N/A", "Unknown", "(null)", "UNLIMITED", "NONE"})


@dataclass(frozen=True, kw_only=True)
class JobFacts:
    """A job as Slurm sees it."""

    state: str
    """RUNNING, COMPLETING, PENDING, CANCELLED, ..."""
    reason: str
    """Why it is in that state: TimeLimit, None, ..."""
    restarts: int
    preempt_time_s: float | None
    """When Slurm chose to preempt it, in seconds since the epoch; None: it has not."""
    end_time_s: float | None
    """When Slurm will end it, in seconds since the epoch."""
    may_requeue: bool = True
    is_batch: bool = True
    exit_code: str = ""
    """`code:signal`, of the batch script."""
    partition: str | None = None
    script: str | None = None
    """The batch script's path and arguments, which Slurm does not keep apart; None: a pipe."""
    folder: str | None = None
    """Where the job was submitted."""
    output: str | None = None
    """The file of its standard output."""


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """How long Slurm waits before it kills."""

    grace_s: float | None = None
    """From the first warning of a preemption; 0: none. None: not known."""
    kill_wait_s: float | None = None
    """From SIGTERM to SIGKILL, whatever the cause."""
    binds_cpus: bool = False
    """srun gives each task some of its node's CPUs, unless an option says otherwise."""


def parse_job(text: str) -> JobFacts | None:
    """Read `scontrol show job ID`; None where that is no job."""
    found, rest = _job_fields(text.split("\n"))
    if "JobState" not in found:
        return None
    return JobFacts(
        state=found["JobState"],
        reason=found.get("Reason", "None"),
        restarts=_whole(found.get("Restarts")),
        preempt_time_s=parse_time(found.get("PreemptTime")),
        end_time_s=parse_time(found.get("EndTime")),
        may_requeue=found.get("Requeue", "1") != "0",
        is_batch=found.get("BatchFlag", "1") != "0",
        exit_code=found.get("ExitCode", ""),
        partition=_known(found.get("Partition")),
        script=_path(rest, "Command="),
        folder=_path(rest, "WorkDir="),
        output=_path(rest, "StdOut=", is_last=True),  # comments before it may look like it
    )


def parse_site(partition: str, config: str) -> SiteFacts:
    """Read `scontrol show partition NAME` and `scontrol show config`."""
    kill_wait = re.search(r"^KillWait\s*=\s*(\d+)", config, re.MULTILINE)
    plugins = re.search(r"^TaskPlugin\s*=\s*(.*)$", config, re.MULTILINE)
    times = _first(partition.split("\n"), "DefaultTime=") or ""
    return SiteFacts(
        grace_s=parse_duration(_pairs(times).get("GraceTime")),
        kill_wait_s=None if kill_wait is None else float(kill_wait[1]),
        binds_cpus=plugins is not None and "affinity" in plugins[1],
    )


def parse_node_addr(text: str) -> str | None:
    """Read from `scontrol show node NAME` under which address Slurm reaches it."""
    value = _first(text.split("\n"), "NodeAddr=")
    return None if value is None else _known(value.partition(" ")[0])


def parse_time(text: str | None) -> float | None:
    """Return seconds since the epoch for a time that Slurm writes in UTC; None: it is none."""
    try:
        return datetime.fromisoformat(text or "").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def parse_duration(text: str | None) -> float | None:
    """Return the seconds of "30", "05:00", "1:00:00" or "1-12:00:00"; None where it is none."""
    match = _DURATION.fullmatch(text or "")
    if match is None or text in _NEVER:
        return None
    parts = [int(part) for part in (match["a"], match["b"], match["c"]) if part is not None]
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + part
    return float(seconds + 86400 * int(match["d"] or 0))


def _job_fields(lines: Sequence[str]) -> tuple[Mapping[str, str], Sequence[str]]:
    """Return the fields of a job's record, and the lines behind them, which hold free text."""
    begin = _number_of(lines, _OWNER, 1)
    end = None if begin is None else _number_of(lines, _LAST_LINE, begin)
    if end is None:
        return {}, ()
    record = lines[begin : end + 1]
    texts = {name: _first(record, name) for name in (*_LINES, _LAST_LINE)}
    found: dict[str, str] = {}
    for name, text in texts.items():
        found |= {} if text is None else _pairs(name + text)
    return found, lines[end + 1 :]


def _number_of(lines: Sequence[str], begin: str, after: int) -> int | None:
    found = (n for n in range(after, len(lines)) if lines[n].strip().startswith(begin))
    return next(found, None)


def _pairs(line: str) -> Mapping[str, str]:
    """Return every `Name=value` of a line that holds no free text."""
    return dict(_PAIR.findall(line))


def _first(lines: Sequence[str], begin: str) -> str | None:
    """Return what follows `begin` in the first line that begins so: a path may have blanks."""
    values = (_after(line, begin) for line in lines)
    return next((value for value in values if value is not None), None)


def _path(lines: Sequence[str], begin: str, *, is_last: bool = False) -> str | None:
    """Return a path, to the end of its line; None where it has another line, and is not known."""
    numbers = [n for n, line in enumerate(lines) if _after(line, begin) is not None]
    if not numbers:
        return None
    number = numbers[-1 if is_last else 0]
    following = lines[number + 1] if number + 1 < len(lines) else ""
    ends = not following.strip() or _FIELD_LINE.match(following) is not None
    return _known(_after(lines[number], begin)) if ends else None


def _after(line: str, begin: str) -> str | None:
    text = line.strip()
    return text[len(begin) :] if text.startswith(begin) else None


def _known(text: str | None) -> str | None:
    return None if text is None or text in _NEVER else text


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
