"""What Grid Engine's environment and files say about a job and this process."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import UsageError

JOB_ID = "JOB_ID"
SPOOL = "SGE_JOB_SPOOL_DIR"
HOSTFILE = "PE_HOSTFILE"
_NOT_BATCH = frozenset({"QRSH", "QLOGIN", "QRLOGIN"})
"""What JOB_SCRIPT holds in sessions of qrsh and qlogin, and in tasks of `qrsh -inherit`."""

Read = Callable[[str], str | None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job, as one of its processes sees it."""

    number: int
    task: int | None = None
    """Of an array."""
    hosts: tuple[str, ...]
    """Of its slots, the one of the job script first."""
    slots: tuple[int, ...]
    """Of each host."""
    notify_s: int
    """From a notice to what it announces; 0: submitted without -notify, and none comes."""
    is_batch: bool
    """Its exit code decides whether it comes back."""
    was_restarted: bool = False

    @property
    def key(self) -> str:
        """Return the job's name for qstat and qdel: an array's element by its own."""
        return str(self.number) if self.task is None else f"{self.number}.{self.task}"

    @property
    def port(self) -> int:
        """Return where the agents meet, unless something else listens there."""
        return 20000 + (self.number * 7 + (self.task or 0)) % 10000


def read_file(path: str) -> str | None:
    """Return a file's text; None: it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def read_job(environ: Mapping[str, str], *, host: str | None = None, read: Read = read_file) -> Job:
    """Read what Grid Engine tells a job; the only place that does.

    Args:
        environ: It has JOB_ID and SGE_JOB_SPOOL_DIR.
        host: This machine's name.
        read: From a file's path to its text; None where it cannot be read.

    Raises:
        UsageError: A variable or a file is not what Grid Engine writes, or the job is over.
    """
    number = _number(environ, JOB_ID)
    config = read(f"{environ[SPOOL]}/config")
    if config is None:
        raise UsageError(_left_over(number, environ[SPOOL]))
    is_batch = environ.get("JOB_SCRIPT") not in _NOT_BATCH
    hosts: dict[str, int] = {host or socket.gethostname(): 1}
    if is_batch and (path := environ.get(HOSTFILE)):
        text = read(path)
        if text is None:
            raise UsageError(
                f"{HOSTFILE}={path} cannot be read here: it names the hosts of job {number}. "
                "Start relaunch in the job script, outside of a container."
            )
        hosts = hosts_of(text, path)
    return Job(
        number=number,
        task=_task(environ),
        hosts=tuple(hosts),
        slots=tuple(hosts.values()),
        notify_s=_notify_s(config),
        is_batch=is_batch,
        was_restarted=environ.get("RESTARTED", "0") not in ("", "0"),
    )


def hosts_of(text: str, path: str) -> dict[str, int]:
    """Return the hosts of a host file and their slots, in its order; pure.

    A host that gives slots from several queues has several lines.

    Raises:
        UsageError: It is none.
    """
    hosts: dict[str, int] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        words = line.split()
        if len(words) < 2 or not words[1].isdecimal():
            raise UsageError(
                f"{HOSTFILE}={path} has the line {line!r}; Grid Engine writes a host and its "
                "number of slots."
            )
        hosts[words[0]] = hosts.get(words[0], 0) + int(words[1])
    if not hosts:
        raise UsageError(f"{HOSTFILE}={path} names no host.")
    return hosts


def _left_over(number: int, folder: str) -> str:
    return (
        f"{SPOOL}={folder} cannot be read: job {number} of Grid Engine is over and its variables "
        "are left over in this shell, or this is a container that does not show the folder. To "
        f"start outside of the job write: env -u {SPOOL} relaunch ...; in a container, bind that "
        "folder."
    )


def _notify_s(config: str) -> int:
    settings = dict(line.split("=", 1) for line in config.splitlines() if "=" in line)
    text = settings.get("notify", "0").strip()
    return int(text) if text.isdecimal() else 0


def _task(environ: Mapping[str, str]) -> int | None:
    if environ.get("SGE_TASK_ID", "undefined") in ("", "undefined"):
        return None
    return _number(environ, "SGE_TASK_ID")


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name].strip()
    if text.isdecimal():
        return int(text)
    raise UsageError(
        f"{name}={environ[name]} in the environment is not a number; Grid Engine did not write "
        f"that. To start outside of its jobs write: env -u {SPOOL} relaunch ..."
    )
