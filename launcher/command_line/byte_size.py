"""Sizes as they are written on the command line."""

import re
from argparse import ArgumentTypeError

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}


def byte_size(text: str) -> int:
    """Read a size: KB, MB, GB, TB are powers of 1000 as Hugging Face counts, KiB, ... of 1024.

    Raises:
        ArgumentTypeError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if match is None or (match[3] and not match[2]):
        raise ArgumentTypeError(f"{text} is not a size; write for example 500MB, 5GB or 2GiB")
    factor = _UNITS[match[2]]
    if match[3]:
        factor = 1024 ** list(_UNITS).index(match[2])
    size_bytes = int(float(match[1]) * factor)
    if size_bytes < 1:
        raise ArgumentTypeError(f"{text} is below one byte")
    return size_bytes
