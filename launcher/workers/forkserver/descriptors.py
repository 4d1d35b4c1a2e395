"""The open descriptors of this process, as far as a fork is concerned."""

import os
from collections.abc import Collection, Mapping

_SHAREABLE = frozenset(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))


def open_descriptors() -> dict[int, str]:
    """Return what is open above the three standard streams, to what it is open on."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
    return {fd: target for fd, target in found.items() if fd > 2}


def close_all_but(kept: Collection[int]) -> None:
    """Close everything above the three standard streams that is not kept."""
    start = 3
    for fd in sorted(fd for fd in kept if fd > 2):
        os.closerange(start, fd)
        start = fd + 1
    # Not SC_OPEN_MAX: what was opened before `ulimit -n` was lowered has a higher number.
    os.closerange(start, max(open_descriptors(), default=start) + 1)


def unshareable(opened: Mapping[int, str]) -> str | None:
    """Return why several processes cannot have what an import has opened, or None; pure.

    The import keeps using it: a socket or a device would be one for all ranks, and closing it
    would leave the number to something else.
    """
    targets = sorted(set(opened.values()) - _SHAREABLE)
    return f"an import has opened {', '.join(targets)}" if targets else None
