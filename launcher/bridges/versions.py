"""Which versions of a framework a bridge was tested with; pure text."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Framework:
    """A framework that a bridge needs."""

    name: str
    """Of its distribution."""
    extra: str
    """Of relaunch, which installs it."""
    oldest: tuple[int, int]
    """Version from which on the bridge works."""
    newest: tuple[int, int]
    """The newest version with which the bridge was tested."""

    def missing_text(self, bridge: str) -> str:
        """Return the sentence about a framework that is not installed."""
        return (
            f"{bridge} needs {self.name}, which is not installed. "
            f"Run: pip install 'relaunch[{self.extra}]'"
        )

    def refusal(self, bridge: str, version: str) -> str | None:
        """Return why a version cannot be used; None: it can."""
        if _release(version) >= self.oldest:
            return None
        return (
            f"{bridge} needs {self.name} {_text(self.oldest)} or newer, and {version} is "
            f"installed. Run: pip install --upgrade 'relaunch[{self.extra}]'"
        )

    def warning(self, bridge: str, version: str) -> str | None:
        """Return the sentence about a version that was not tested; None: it was."""
        if _release(version) <= self.newest:
            return None
        return (
            f"{self.name} {version} is newer than the versions with which {bridge} was tested "
            f"({_text(self.oldest)} to {_text(self.newest)})."
        )

    def changed_text(self, bridge: str, version: str, absent: Collection[str]) -> str:
        """Return the sentence about a version without the methods that the bridge uses."""
        return (
            f"{bridge} does not know this Trainer of {self.name} {version}: it has no "
            f"{', '.join(sorted(absent))}. Install {self.name} {_text(self.oldest)} to "
            f"{_text(self.newest)}."
        )


TRANSFORMERS = Framework(name="transformers", extra="hf", oldest=(5, 23), newest=(5, 24))
LIGHTNING = Framework(name="lightning", extra="lightning", oldest=(2, 6), newest=(2, 6))
RAY = Framework(name="ray", extra="ray", oldest=(2, 60), newest=(2, 60))


def _release(version: str) -> tuple[int, int]:
    numbers = [int(n) for n in re.findall(r"\d+", version)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
