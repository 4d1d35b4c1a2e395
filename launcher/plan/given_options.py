"""The options that were given, as texts; pure."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Given:
    """An option's text, and how it was spelled."""

    text: str
    spelled: str
    """`--nnodes two` or `PET_NNODES=two`, for messages."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """The options that are given, by name, and what comes after them."""

    given: Mapping[str, Given]
    rest: tuple[str, ...]

    def text(self, name: str) -> str | None:
        """Return the option's text, None where it is not given."""
        return self.given[name].text if name in self.given else None

    def flag(self, name: str) -> bool:
        """Return whether the flag is set.

        Raises:
            UsageError: Its variable in the environment is not a number.
        """
        if name not in self.given:
            return False
        try:
            return bool(int(self.given[name].text))
        except ValueError:
            raise UsageError(f"{self.given[name].spelled} is neither 0 nor 1.") from None


def nearest(given: str, valid: Collection[str]) -> str:
    """Return '; did you mean --strategy?', or nothing when no valid name is near."""
    near = difflib.get_close_matches(given, list(valid), n=1)
    return f"; did you mean {near[0]}?" if near else "."
