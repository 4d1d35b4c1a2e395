"""Text from a folder, a manifest or another program, made fit to be printed; pure."""

import re
import unicodedata
from typing import Any

_KEPT = frozenset("\u200c\u200d")
"""They join and part letters, in Persian and in emoji, and are not printable for Python."""
_LINE_ENDS = re.compile(r"(\r?\n)")
_MARKUP = re.compile(r"[\\<\[\]`*]|&(?=[#\w]+;)")
_BLOCK_START = re.compile(r"\s*(\d*)(?:[#>=~]|[+-](?=[\s+-]|$)|(?<=\d)[.)](?=\s|$))")
"""A heading, a quotation, a rule or fence, an entry of a list, a numbered one."""


def printable(text: str) -> str:
    r"""Return one line that shows every control character as an escape, such as \x1b or \n.

    A terminal obeys them, and obeys what turns the direction of writing: a name that holds one
    could hide other lines or fake them.
    """
    if text.isprintable():
        return text
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Return the text as `printable` does, its line ends kept: for what is several lines."""
    parts = _LINE_ENDS.split(text)
    return "".join("\n" if n % 2 else printable(part) for n, part in enumerate(parts))


def printable_values(value: Any) -> Any:
    """Return JSON with every text in it, names too, as `printable` does."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): printable_values(each) for key, each in value.items()}
    if isinstance(value, list):
        return [printable_values(each) for each in value]
    return value


def markdown(text: str) -> str:
    """Return a text that Markdown shows as it is: no link, picture or HTML, in a line or a cell."""
    return _MARKUP.sub(lambda f: "&lt;" if f[0] == "<" else f"\\{f[0]}", printable(text))


def markdown_start(text: str) -> str:
    """Return the same for a text that stands first in its line: no heading and no list either."""
    shown = markdown(text)
    if (start := _BLOCK_START.match(shown)) is None:
        return shown
    return f"{shown[: start.end() - 1]}\\{shown[start.end() - 1 :]}"


def _is_shown(c: str) -> bool:
    return c.isprintable() or c in _KEPT or unicodedata.category(c) == "Zs"
