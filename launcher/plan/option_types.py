"""From an option's text to its value; each function raises UsageError with what was given."""

import math
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ..errors import UsageError
from .given_options import Given

NPROC_WORDS = ("auto", "gpu", "cpu")

_STD = re.compile(r"[0-3]|\d+:[0-3](,\d+:[0-3])*")
_PAIR = re.compile(r"""([^=,]+)=("[^"]*"|'[^']*'|[^,]*)(?:,|$)""")

Value = TypeVar("Value")


def optional(given: Given | None, read: Callable[[Given], Value]) -> Value | None:
    """Return what `read` makes of it, None where the option is not given."""
    return None if given is None else read(given)


def place(given: Given) -> str:
    """Read a folder, a file or a URL; nothing at all would mean the working folder."""
    if not given.text.strip():
        raise UsageError(
            f"{given.spelled} is empty. Is a variable not set? Write . for the working folder."
        )
    return given.text


def path(given: Given) -> Path:
    """Read a path."""
    return Path(place(given))


def whole(given: Given) -> int:
    """Read a whole number from 0 on."""
    try:
        number = int(given.text)
    except ValueError:
        raise UsageError(f"{given.spelled} is not a whole number.") from None
    if number < 0:
        raise UsageError(f"{given.spelled} is below 0.")
    return number


def names(given: Given) -> tuple[str, ...]:
    """Read names with commas between them."""
    return tuple(name for part in given.text.split(",") if (name := part.strip()))


def port(given: Given) -> int:
    """Read a port; 0 is a free one."""
    number = whole(given)
    if number > 65535:
        raise UsageError(
            f"{given.spelled} is not a port; pass 1 to 65535, or leave it out for a free one."
        )
    return number


def seconds(given: Given) -> float:
    """Read a number of seconds from 0 on."""
    try:
        number = float(given.text)
    except ValueError:
        raise UsageError(f"{given.spelled} is not a number of seconds.") from None
    if not 0 <= number < math.inf:
        raise UsageError(f"{given.spelled} is not a number of seconds from 0 on.")
    return number


def positive_seconds(given: Given) -> float:
    """Read a number of seconds above 0."""
    number = seconds(given)
    if number == 0:
        raise UsageError(f"{given.spelled} has to be above 0; leave it out for no limit.")
    return number


def nproc(given: Given) -> str | int:
    """Read the ranks of a node: a number from 1 on or one of NPROC_WORDS."""
    if given.text in NPROC_WORDS:
        return given.text
    if given.text.isdecimal() and int(given.text) > 0:
        return int(given.text)
    if given.text == "xpu":
        raise UsageError(f"{given.spelled}: relaunch counts NVIDIA GPUs only. Pass a number.")
    raise UsageError(f"{given.spelled} is neither a number from 1 on nor one of auto, gpu, cpu.")


def nnodes(given: Given) -> tuple[int, int]:
    """Read N or MIN:MAX."""
    low, colon, high = given.text.partition(":")
    if not (low.isdecimal() and (high.isdecimal() if colon else True)):
        raise UsageError(f"{given.spelled} is neither a number of nodes nor MIN:MAX.")
    num_min, num_max = int(low), int(high or low)
    if not 1 <= num_min <= num_max:
        raise UsageError(f"{given.spelled} needs 1 <= MIN <= MAX.")
    return num_min, num_max


def endpoint(given: Given) -> tuple[str, int | None]:
    """Read HOST, HOST:PORT or [IPv6]:PORT."""
    text = given.text
    host, colon, tail = text.rpartition(":")
    if (text.startswith("[") and text.endswith("]")) or not colon:
        host, tail = text, ""
    if not host or (tail and not tail.isdecimal()):
        raise UsageError(f"{given.spelled} is not HOST:PORT.")
    number = port(Given(text=tail, spelled=given.spelled)) if tail else None
    return host.strip("[]"), number


def configuration(given: Given) -> Mapping[str, str]:
    """Read K=V,...; a value or the whole may be quoted."""
    text = given.text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None or not match[1].strip() or not match[2].strip("\"' "):
            raise UsageError(f"{given.spelled} is not KEY=VALUE,KEY=VALUE,...")
        found[match[1].strip()] = match[2].strip().strip("\"'")
        position = match.end()
    return found


def streams(given: Given) -> int | Mapping[int, int]:
    """Read `3`, for all local ranks, or `0:1,12:3`: bit 1 is stdout, bit 2 stderr."""
    if not _STD.fullmatch(given.text):
        raise UsageError(
            f"{given.spelled} is neither one of 0, 1 (stdout), 2 (stderr), 3 (both) nor a list "
            "LOCAL_RANK:STD,..."
        )
    if ":" not in given.text:
        return int(given.text)
    pairs = (pair.split(":") for pair in given.text.split(","))
    return {int(local_rank): int(std) for local_rank, std in pairs}


def local_ranks(given: Given) -> frozenset[int]:
    """Read a list of local ranks."""
    texts = [text.strip() for text in given.text.split(",")]
    if not all(text.isdecimal() for text in texts):
        raise UsageError(f"{given.spelled} is not a list of local ranks such as 0,1,2.")
    return frozenset(int(text) for text in texts)


def filters(given: Given) -> tuple[str, ...]:
    """Read a list of texts; two commas are one that belongs to a text."""
    parts = given.text.replace(",,", "\0").split(",")
    return tuple(part.replace("\0", ",") for part in parts if part)


def signals(given: Given) -> tuple[signal.Signals, ...]:
    """Read names of signals."""
    names = [name.strip().upper() for name in given.text.split(",") if name.strip()]
    unknown = [name for name in names if name not in signal.Signals.__members__]
    if unknown:
        raise UsageError(f"{given.spelled}: there is no signal {unknown[0]}.")
    for name in ("SIGKILL", "SIGSTOP", "SIGCHLD"):
        if name in names:
            raise UsageError(f"{given.spelled}: {name} cannot be a preemption notice.")
    return tuple(signal.Signals[name] for name in names)
