"""What pays on which filesystem.

A copy into the page cache and its write-back cost the processors several times the work of a write
straight from the staging memory, and drive out what the training reads. Writing past the cache pays
on a local disk. Network filesystems keep many requests in flight for a cached write and one for a
direct one, so there the cache stays in use.

Space is reserved before the first byte so that a full disk is found then. In memory that would mean
to clear every page which the write then fills: half as much work again, to find the same a little
later.
"""

ALIGN_BYTES = 4096
"""What addresses, offsets and lengths of a direct write are multiples of."""

_LOCAL_DISKS = frozenset({"ext4", "xfs"})
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def takes_direct_writes(kind: str | None) -> bool:
    """Return whether writing past the page cache pays on a type of filesystem. Pure."""
    return kind in _LOCAL_DISKS


def is_in_memory(kind: str | None) -> bool:
    """Return whether a type of filesystem has no disk. Pure."""
    return kind in _IN_MEMORY


def filesystem_type(mounts: str, major: int, minor: int) -> str | None:
    """Return the type of the filesystem on a device, None if it is not in the list. Pure.

    Args:
        mounts: The text of /proc/self/mountinfo.
        major: The device's major number.
        minor: Its minor number.
    """
    wanted = f"{major}:{minor}"
    for line in mounts.splitlines():
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
        mount, separator, rest = line.partition(" - ")
        if separator and mount.split()[2:3] == [wanted]:
            return rest.split()[0]
    return None
