"""What `scontrol show` says about a job, a partition and the site, as values; pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

_PAIR = re.compile(r"(?:^|\s)([A-Za-z][\w:/]*)=(\S*)")
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
    partition: str | None = None
    script: str | None = None
    """The batch script's path, where it was not read from a pipe."""
    folder: str | None = None
    """Where the job was submitted."""


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """How long Slurm waits before it kills."""

    grace_s: float | None = None
    """From the first warning of a preemption; 0: none. None: not known."""
    kill_wait_s: float | None = None
    """From SIGTERM to SIGKILL, whatever the cause."""
    binds_cpus: bool = False
    """srun gives each task some of its node's CPUs, unless it is told not to."""


def parse_job(text: str) -> JobFacts | None:
    """Read `scontrol show job ID`; None where that is no job."""
    found = pairs(text)
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
        partition=_known(found.get("Partition")),
        script=_known(_line(text, "Command")),
        folder=_known(_line(text, "WorkDir")),
    )


def parse_site(partition: str, config: str) -> SiteFacts:
    """Read `scontrol show partition NAME` and `scontrol show config`."""
    kill_wait = re.search(r"^KillWait\s*=\s*(\d+)", config, re.MULTILINE)
    plugins = re.search(r"^TaskPlugin\s*=\s*(.*)$", config, re.MULTILINE)
    return SiteFacts(
        grace_s=parse_duration(pairs(partition).get("GraceTime")),
        kill_wait_s=None if kill_wait is None else float(kill_wait[1]),
        binds_cpus=plugins is not None and "affinity" in plugins[1],
    )


def pairs(text: str) -> Mapping[str, str]:
    """Return the first value of every `Name=value` in the text."""
    found: dict[str, str] = {}
    for name, value in _PAIR.findall(text):
        found.setdefault(name, value)
    return found


def parse_time(text: str | None) -> float | None:
    """Return seconds since the epoch for Slurm's local time; None where it is none."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
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


def _line(text: str, name: str) -> str | None:
    """Return all that follows `Name=` to the end of its line: a path may have blanks."""
    match = re.search(rf"^\s*{name}=(.*?)\s*$", text, re.MULTILINE)
    return None if match is None else match[1]


def _known(text: str | None) -> str | None:
    return None if text is None or text in _NEVER else text


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
