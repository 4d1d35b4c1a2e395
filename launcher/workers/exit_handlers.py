"""Whether C code of this process may have something to do at its exit.

torch's own libraries have: they take their tables apart, for a tenth of a second in which nothing
happens that anybody could see. A library that the program has brought may write a file.
"""

import contextlib
import mmap
import struct
from collections.abc import Collection, Mapping

_INJECTED_BY = ("LD_PRELOAD", "LD_AUDIT")
_REGISTERING = (b"__cxa_atexit\0", b"on_exit\0")
"""C's atexit, and the destructor of a static object of C++, are calls of the first."""
_ONE_ENTRY_BYTES = 8
"""A .fini_array of the compiler's own; a function marked as a destructor is an entry more."""
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_STRTAB, _DT_STRSZ, _DT_FINI_ARRAYSZ = 5, 10, 28
_MEMORY = ("/dev/shm/", "/dev/zero")


def mapped_files(maps: str = "/proc/self/maps") -> frozenset[str]:
    """Return the paths of the libraries and devices that are mapped; none where it is unknown."""
    found = set()
    with contextlib.suppress(OSError), open(maps, encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.rstrip("\n").split(maxsplit=5)
            if len(words) == 6 and words[5].startswith("/"):
                is_device = words[5].startswith("/dev/") and not words[5].startswith(_MEMORY)
                if "x" in words[1] or is_device:
                    found.add(words[5])
    return frozenset(found)


def may_have_handlers(
    mapped: Collection[str], known: Collection[str], environ: Mapping[str, str]
) -> bool:
    """Return whether libraries may have registered exit handlers.

    Args:
        mapped: what `mapped_files` returns now.
        known: libraries whose handlers nobody would miss. Empty: nothing is known.
        environ: of the process.
    """
    if not known or not mapped or any(environ.get(name) for name in _INJECTED_BY):
        return True
    return any(path.startswith("/dev/") or _registers(path) for path in set(mapped) - set(known))


def _registers(path: str) -> bool:
    """Return whether a library may call something at exit; True where it cannot be read."""
    try:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as image,
        ):
            return _has_exit_code(image)
    except (OSError, ValueError, struct.error):
        return True


def _has_exit_code(image: mmap.mmap) -> bool:
    """Look into a 64-bit little-endian ELF file, as System V's ABI describes it."""
    if image[:6] != b"\x7fELF\x02\x01":
        return True
    at, size, count = *struct.unpack_from("<Q", image, 32), *struct.unpack_from("<HH", image, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", image, at + i * size) for i in range(count)]
    dynamic = next((h for h in headers if h[0] == _PT_DYNAMIC), None)
    if dynamic is None:
        return True
    tags = dict(
        struct.unpack_from("<qQ", image, dynamic[2] + offset)
        for offset in range(0, dynamic[5] - 15, 16)
    )
    names = tags.get(_DT_STRTAB)
    if names is None or tags.get(_DT_FINI_ARRAYSZ, 0) > _ONE_ENTRY_BYTES:
        return True
    for kind, _, offset, address, _, in_file, _, _ in headers:
        if kind == _PT_LOAD and address <= names < address + in_file:
            begin = offset + names - address
            text = image[begin : begin + tags.get(_DT_STRSZ, 0)]
            return any(name in text for name in _REGISTERING)
    return True
