"""The file in which a rank reports that all is saved, with which code it exits, and may be ended.

Between that moment and its end a rank takes its time: it parts from its peers, and Python clears
up and lets go of its signal handlers. Whatever ends it there takes nothing away.
"""

import contextlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

from .small_file import write_json


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """What a rank reported before its exit."""

    code: int
    """With which it leaves."""
    told_s: float
    """When, on the monotonic clock, which all processes of a node share."""


def tell_leaving(path: Path | None, code: int) -> None:
    """Report that this rank may be ended from now on; called right before it exits with the code.

    Called on every rank that leaves by itself, once everything that it has to keep is kept. The
    file appears whole or not at all; where it cannot be written the rank is judged by its end.

    Args:
        path: `RankEnvironment.leaving_file`; None under plain `python train.py`.
        code: `DONE` or `CONTINUE`.
    """
    if path is None:
        return
    with contextlib.suppress(OSError):
        write_json(path, {"code": code, "told_s": time.monotonic()})


def told_leaving(path: Path) -> int | None:
    """Return the code with which the rank reported its exit; None: it has not."""
    leaving = read_leaving(path)
    return None if leaving is None else leaving.code


def others_left(path: Path | None, code: int) -> bool:
    """Return whether another rank of this node has said that it leaves with a code.

    Args:
        path: `RankEnvironment.leaving_file` of the rank that asks.
        code: such as `CONTINUE`.
    """
    if path is None:
        return False
    beside = path.parent.glob(path.name.replace(path.name.split("-")[1], "*", 1))
    return any(told_leaving(other) == code for other in beside if other != path)


def read_leaving(path: Path) -> Leaving | None:
    """Return all that the rank said; None: nothing that can be read. Called in the launcher."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        code, told_s = content["code"], content["told_s"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(code, int) or not isinstance(told_s, float) or not math.isfinite(told_s):
        return None
    return Leaving(code=code, told_s=told_s)
