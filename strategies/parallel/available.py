"""How much memory a rank may use."""

from __future__ import annotations

from pathlib import Path

import torch

_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def available_bytes(device: torch.device, local_world_size: int) -> int | None:
    """Return what this rank's device has free, shared with the ranks beside it.

    On a CPU the least of what the kernel calls available and what the control group has left.
    None: there is no kernel here that says it.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        sharing = -(-local_world_size // max(1, torch.cuda.device_count()))
        return int(free) // sharing
    texts = {name: _text(name) for pair in _CGROUP_FILES for name in pair}
    free_bytes = host_bytes(_text("/proc/meminfo"), texts)
    return None if free_bytes is None else free_bytes // local_world_size


def host_bytes(meminfo: str, cgroup: dict[str, str]) -> int | None:
    """Return the host's free bytes, from the texts of the kernel's files. Pure.

    None: `meminfo` does not say it.
    """
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    if "MemAvailable" not in fields:
        return None
    free = int(fields["MemAvailable"].split()[0]) * 1024
    for limit, used in _CGROUP_FILES:
        most, now = cgroup.get(limit, "").strip(), cgroup.get(used, "").strip()
        if most.isdecimal() and now.isdecimal():
            free = min(free, max(0, int(most) - int(now)))
    return free


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
