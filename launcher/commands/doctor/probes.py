"""Looking at this node and at a folder: thin; what it means is decided in `verdicts`."""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import socket
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from ...run_folder.lock import lock_file
from . import nvidia
from .facts import FolderFacts, GpuFacts, NodeFacts

_PROBE_BYTES = 64 << 20
_BLOCK_BYTES = 4 << 20
_LONGEST_WRITE_S = 20.0
"""A slower disk is known well enough by then."""


def look_at_node() -> NodeFacts:
    """Return what this node is; takes a second and imports no torch."""
    left_out: dict[str, str] = {}
    gpus: tuple[GpuFacts, ...] = ()
    try:
        gpus = nvidia.look()
    except nvidia.NoGpuAnswerError as error:
        left_out["gpus"] = str(error)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return NodeFacts(
        host=socket.gethostname(),
        versions={
            "relaunch": _version("relaunch"),
            "python": ".".join(map(str, sys.version_info[:3])),
            "torch": _version("torch"),
            "deepspeed": _version("deepspeed"),
            "driver": _driver(),
        },
        gpus=gpus,
        shared_memory_free_bytes=_shared_memory(left_out),
        open_files=None if soft == resource.RLIM_INFINITY else soft,
        processes_left=_processes_left(left_out),
        interfaces=_interfaces(),
        address=_address(),
        left_out=left_out,
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    with suppress(OSError, IndexError):
        text = Path("/proc/driver/nvidia/version").read_text(encoding="ascii", errors="replace")
        return next(word for word in text.split() if word[0].isdigit() and "." in word)
    return None


def _shared_memory(left_out: dict[str, str]) -> int | None:
    try:
        found = os.statvfs("/dev/shm")
    except OSError as error:
        left_out["shared memory"] = f"/dev/shm: {error.strerror}"
        return None
    return found.f_bavail * found.f_frsize


def _processes_left(left_out: dict[str, str]) -> int | None:
    """Return how many more the control groups and the user's limit allow."""
    found = []
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="ascii")
    except OSError as error:
        left_out["processes"] = f"/proc/self/cgroup: {error.strerror}"
        own = ""
    for folder in pids_folders(own):
        with suppress(OSError, ValueError):  # the root has no limit, and "max" is none
            most = int((folder / "pids.max").read_text(encoding="ascii"))
            now = int((folder / "pids.current").read_text(encoding="ascii"))
            found.append(max(0, most - now))
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if soft != resource.RLIM_INFINITY and os.getuid() != 0:
        found.append(max(0, soft - _threads_of(os.getuid())))
    return min(found, default=None)


def pids_folders(text: str) -> list[Path]:
    """Return the control groups whose limits of processes hold, the innermost first. Pure.

    A job's or container's limit may stand in any of them. In a container its own group may be shown
    with the host's path, which is not there; the limit then stands at the top.

    Args:
        text: of /proc/self/cgroup.
    """
    folders = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "pids" not in controllers.split(","):
            continue  # the other controllers of version 1
        root = Path("/sys/fs/cgroup/pids" if controllers else "/sys/fs/cgroup")
        own = Path(path.lstrip("/"))
        folders += [root / one for one in (own, *own.parents)]
    return list(dict.fromkeys(folders))


def _threads_of(uid: int) -> int:
    """Return how many processes and threads a user has, which count alike."""
    count = 0
    for task in Path("/proc").glob("[0-9]*/task"):
        with suppress(OSError):
            if task.stat().st_uid == uid:
                count += sum(1 for _ in task.iterdir())
    return count


def _interfaces() -> tuple[str, ...]:
    found = []
    for _, name in socket.if_nameindex():
        with suppress(OSError):
            state = Path(f"/sys/class/net/{name}/operstate").read_text(encoding="ascii").strip()
            if name != "lo" and state in ("up", "unknown"):
                found.append(name)
    return tuple(found)


def _address() -> str | None:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def is_free(port: int) -> bool:
    """Return whether a port can be listened on here."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError:
            return False
    return True


def look_at_folder(path: Path, *, size_bytes: int = _PROBE_BYTES) -> FolderFacts:
    """Write, lock and rename in a folder; nothing is left there."""
    probe = path / f".doctor-{secrets.token_hex(4)}"
    made = [one for one in (path, *path.parents) if not one.exists()]
    try:
        probe.mkdir(parents=True)
        try:
            return FolderFacts(
                path=str(path),
                write_bytes_per_s=_write_speed(probe / "speed", size_bytes),
                free_bytes=shutil.disk_usage(path).free,
                locks=_locks(probe / "lock"),
                renames=_renames(probe),
            )
        finally:
            shutil.rmtree(probe, ignore_errors=True)
            for one in made:
                with suppress(OSError):
                    one.rmdir()
    except OSError as error:
        return FolderFacts(path=str(path), problem=error.strerror or str(error))


def _write_speed(path: Path, size_bytes: int) -> float:
    block, written = os.urandom(_BLOCK_BYTES), 0
    began = time.monotonic()
    with path.open("wb", buffering=0) as file:
        while written < size_bytes and time.monotonic() - began < _LONGEST_WRITE_S:
            written += file.write(block)
        os.fsync(file.fileno())
    return written / max(time.monotonic() - began, 1e-6)


def _locks(path: Path) -> bool:
    with path.open("wb") as first, path.open("wb") as second:
        return lock_file(first.fileno()) is True and lock_file(second.fileno()) is False


def _renames(probe: Path) -> bool:
    before, after = probe / "before", probe / "after"
    before.mkdir()
    (before / "file").write_bytes(b"1")
    before.rename(after)
    return (after / "file").read_bytes() == b"1" and not before.exists()
