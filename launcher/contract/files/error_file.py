"""The file in which a rank leaves the reason of its failure: torchrun's JSON contract.

torch's `@record` writes it for an exception. `write_error` writes it for a mistake of the user
found in a rank; the launcher then prints that sentence once instead of a report.
"""

import json
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..exit_codes import USAGE
from .small_file import write_json

EXCEPTION = 1
"""Python's exit code after an exception that nobody has caught."""


@dataclass(frozen=True, kw_only=True)
class ErrorRecord:
    """What a rank reported about its own failure."""

    message: str
    exit_code: int | None = None
    """The code to leave with; only given where the record is ours."""
    told_s: float | None = None
    """When the rank said so, on the monotonic clock, which all processes of a node share; only
    given where the record is ours: torch's has whole seconds."""
    is_sentence: bool = False
    """True: for the user as it is, without a report around it."""


def write_error(
    path: Path | None, message: str, *, exit_code: int = USAGE, at_s: float | None = None
) -> bool:
    """Leave a sentence for the user; the caller then exits with `exit_code`.

    Called in any rank that finds the mistake, so possibly in all of them; the launcher prints it
    once. The file appears whole or not at all.

    Args:
        path: `RankEnvironment.error_file`; None under plain `python train.py`.
        message: One sentence: what was given, what is needed, what to do.
        exit_code: The code with which this rank is about to exit.
        at_s: When the mistake was met, on the monotonic clock; None: now.

    Returns:
        Whether the launcher will print the sentence. False: the caller has to.
    """
    return _write(path, _record(message, message, exit_code, at_s, is_sentence=True))


def write_exception(
    path: Path | None,
    error: BaseException,
    where: str,
    masked: Callable[[str], str] = lambda text: text,
    *,
    at_s: float | None = None,
) -> bool:
    """Leave what ended this rank, and where, for the launcher's report; it prints no traceback.

    Args:
        path: `RankEnvironment.error_file`; None under plain `python train.py`.
        error: What nobody has caught.
        where: Rank, step and line.
        masked: Takes secrets out of what is shown and recorded.
        at_s: When it was raised, on the monotonic clock; None: now.

    Returns:
        Whether the launcher will report it.
    """
    words = "".join(traceback.format_exception_only(error)).strip()
    stack = "".join(traceback.format_exception(error))
    text = masked(f"{words}\n{where}")
    return _write(path, _record(text, masked(stack), EXCEPTION, at_s, is_sentence=False))


def _record(
    text: str, stack: str, exit_code: int, at_s: float | None, *, is_sentence: bool
) -> dict[str, Any]:
    told_s = time.monotonic() if at_s is None else at_s
    extra = {"py_callstack": stack, "timestamp": str(int(time.time()))}
    own = {"sentence": is_sentence, "exit_code": exit_code, "told_s": told_s}
    message = {"message": text, "errorCode": exit_code, "extraInfo": extra}
    return {"message": message, "relaunch": own}


def _write(path: Path | None, record: dict[str, Any]) -> bool:
    if path is None:
        return False
    try:
        write_json(path, record)
    except OSError:
        return False
    return True


def read_error(path: Path) -> ErrorRecord | None:
    """Return what the rank left, or None when there is nothing readable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return parse_error(content)


def parse_error(content: Any) -> ErrorRecord | None:
    """Read torchrun's two forms (a string, or an object with a message) and our addition."""
    if not isinstance(content, dict):
        return None
    message = content.get("message")
    if isinstance(message, dict):
        message = message.get("message")
    if not isinstance(message, str) or not message.strip():
        return None
    own = content.get("relaunch")
    if not isinstance(own, dict):
        return ErrorRecord(message=message.strip())
    code, told_s = own.get("exit_code"), own.get("told_s")
    return ErrorRecord(
        message=message.strip(),
        exit_code=code if isinstance(code, int) else None,
        told_s=told_s if isinstance(told_s, float) and math.isfinite(told_s) else None,
        is_sentence=own.get("sentence") is True,
    )
