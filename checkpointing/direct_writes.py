"""Which files are written past the page cache.

A copy into the page cache and its write-back cost the processors several times the work of a write
straight from the staging memory, and drive out what the training reads. That pays on a local disk.
Network filesystems keep many requests in flight for a cached write and one for a direct one, so
there the cache stays in use.
"""

ALIGN_BYTES = 4096
"""What addresses, offsets and lengths of a direct write are multiples of."""

_LOCAL_DISKS = frozenset({"ext4", "xfs"})


def pays_directly(mounts: str, major: int, minor: int) -> bool:
    """Tell whether a device is a local disk that takes direct writes well. Pure.

    Args:
        mounts: The text of /proc/self/mountinfo.
        major: The device's major number.
        minor: Its minor number.
    """
    return filesystem_type(mounts, major, minor) in _LOCAL_DISKS


def filesystem_type(mounts: str, major: int, minor: int) -> str | None:
    """Return the type of the filesystem on a device, None if it is not in the list. Pure."""
    wanted = f"{major}:{minor}"
    for line in mounts.splitlines():
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
        mount, separator, rest = line.partition(" - ")
        if separator and mount.split()[2:3] == [wanted]:
            return rest.split()[0]
    return None
