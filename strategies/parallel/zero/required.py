"""Which DeepSpeed the ZeRO strategies need, looked for without importing it; no torch."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec

from ...errors import ConfigError

STRATEGIES = ("zero1", "zero2", "zero3")
OLDEST = "0.19.8"
"""0.19.0 to 0.19.6 lack names that `internals` reads. 0.19.7 has them, and in bf16 leaves sums over
the ranks out."""
REMEDY = f"pip install 'deepspeed>={OLDEST}' (or 'relaunch[zero]')"


def trouble(version: str | None) -> str | None:
    """Return why this DeepSpeed cannot be used; None: it can. Pure.

    Args:
        version: as DeepSpeed gives it; None: it is not installed; "": it does not say.
    """
    if version is None:
        return "it is not installed"
    if version and _key(version) < _key(OLDEST):
        return f"{version} is installed, which trains wrongly or not at all here"
    return None


def require(strategy: str, version: str | None) -> None:
    """Refuse a ZeRO strategy without a DeepSpeed that it can use. Pure.

    Raises:
        ConfigError: saying what is there, what is needed and how to get it.
    """
    if strategy in STRATEGIES and (why := trouble(version)) is not None:
        raise ConfigError(
            f"strategy={strategy} needs DeepSpeed {OLDEST} or newer; {why}. {REMEDY}, or use "
            "--strategy fsdp."
        )


@cache
def installed() -> str | None:
    """Return the version of the DeepSpeed that would be imported; see `trouble`."""
    from importlib import metadata  # takes milliseconds, and most starts need none

    if find_spec("deepspeed") is None:
        return None
    try:
        return metadata.version("deepspeed")
    except metadata.PackageNotFoundError:
        return ""


def _key(version: str) -> tuple[list[int], bool]:
    """Order releases; one that leads up to another, such as 0.19.8rc1, comes before it."""
    found = re.match(r"v?(\d+(?:\.\d+)*)(.*)", version)
    if found is None:
        return [], False
    numbers = [int(part) for part in found[1].split(".")]
    return numbers, re.match(r"[._-]?(a|b|rc|dev)", found[2]) is None
