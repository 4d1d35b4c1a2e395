"""The exceptions of this package.

StrategyError
├── ConfigError     what was asked cannot be done (also a ValueError); the user can mend it
└── DesyncError     the ranks no longer do the same thing (also a RuntimeError)

LostRankError       another rank is gone: a RuntimeError, as torch's own of a collective that fails.
                    No StrategyError, since the cause is to be looked for there, and not here
DataNotReady        a rank with a preemption notice has stopped waiting for its next batch
"""

from collections.abc import Sequence

INSTALL_TESTED = "Install a tested version (docs/versions.md)"


class StrategyError(Exception):
    """Base of every error raised by `strategies`."""


class ConfigError(StrategyError, ValueError):
    """A value that cannot work; the message says what was given, what is needed, what to do."""


class DesyncError(StrategyError, RuntimeError):
    """The ranks disagree on the step, the configuration or the metrics they are reporting."""


class LostRankError(RuntimeError):
    """Another rank closed its connection, or does not come."""


class DataNotReady(Exception):
    """A rank with a preemption notice stops waiting for a batch, which can be asked for again."""


def some_of(names: Sequence[str], most: int) -> str:
    """Return "a, b, c and 4 more": so many names, and how many others there are. Pure."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def first_line(error: Exception) -> str:
    """Return the kind and the first line of an exception that others have raised."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
