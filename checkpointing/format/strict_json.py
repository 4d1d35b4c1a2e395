"""JSON without NaN, without coerced keys, with one spelling per value."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"


def require_json(value: object, where: str) -> None:
    """Refuse what JSON would change or drop on the way to disk and back.

    Args:
        value: What the caller wants stored.
        where: How to name the value in the error, such as "state".

    Raises:
        TypeError: For a tuple, a tensor, a key that is not a string, or any other foreign type.
        ValueError: For NaN and the infinities, and for text that is not valid Unicode.
    """
    if value is None or isinstance(value, bool | int):
        return
    if isinstance(value, str):
        _require_unicode(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which JSON cannot hold. Encode it as a string.")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            require_json(item, f"{where}[{index}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; JSON needs strings as keys.")
            _require_unicode(key, where)
            require_json(item, f"{where}[{key!r}]")
    else:
        raise TypeError(
            f"{where} is a {type(value).__name__}; JSON needs None, bool, int, float, str, list or "
            "a mapping. Encode it first."
        )


def canonical_text(value: JSON) -> str:
    """Spell a value in the one way that this format knows: ASCII, sorted keys, no spaces.

    A text that is spelled so has no duplicate key, no NaN and no stray space.

    Raises:
        ValueError: For NaN and the infinities, and for what is nested too deeply.
    """
    try:
        return json.dumps(
            value, allow_nan=False, sort_keys=True, separators=(",", ":"), default=_plain_mapping
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_json(text: bytes) -> JSON:
    """Read a value back; whether it is spelled canonically is for the caller to compare.

    Raises:
        ValueError: If this is not JSON in ASCII.
    """
    try:
        value: JSON = json.loads(text.decode("ascii"))
        return value
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _require_unicode(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds the text {text!r}, which is not valid Unicode.") from error


def _plain_mapping(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
