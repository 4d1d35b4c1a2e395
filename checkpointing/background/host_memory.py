"""How much memory the host still has for this process: the machine's, or its control group's."""

from collections.abc import Callable, Iterator

from ..storage.local_files import kernel_text

_V2 = ("memory.max", "memory.current", ("active_file", "inactive_file"))
_V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)


def host_free_bytes(read: Callable[[str], str] = kernel_text) -> int | None:
    """Return the least of what the kernel calls available and what each control group has left.

    Cached files do not count as taken: the kernel drops them for any process that needs the memory.

    Args:
        read: Returns the text of one of the kernel's files, "" where there is none.

    Returns:
        None: there is no kernel here that says it.
    """
    available = _number(read("/proc/meminfo"), "MemAvailable:")
    if available is None:
        return None
    free = available * 1024
    for folder, (limit, used, cached) in _groups(read("/proc/self/cgroup")):
        most, now = (read(f"{folder}/{name}").strip() for name in (limit, used))
        if most.isdecimal() and now.isdecimal():
            statistics = read(f"{folder}/memory.stat")
            dropped = sum(_number(statistics, name) or 0 for name in cached)
            free = min(free, max(0, int(most) - int(now) + dropped))
    return free


def _groups(text: str) -> Iterator[tuple[str, tuple[str, str, tuple[str, ...]]]]:
    """Yield the folders of this process's control groups up to the root, and what is in them.

    In a container the root may be the group itself, under another name than this process sees.
    """
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, form = ("/sys/fs/cgroup/memory", _V1) if controllers else ("/sys/fs/cgroup", _V2)
        path = path.rstrip("/")
        while path:
            yield root + path, form
            path = path.rpartition("/")[0]
        yield root, form


def _number(text: str, name: str) -> int | None:
    """Return the number behind a name at the beginning of a line."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == [name] and words[1:2] and words[1].isdecimal():
            return int(words[1])
    return None
