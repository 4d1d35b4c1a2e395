"""The exceptions of the launcher.

LauncherError
+-- UsageError (ValueError)      what was asked cannot be done; leaves with exit code 2
|   +-- ToldElsewhere            another process of the same start says why
+-- StartError (RuntimeError)    it could be done, but this machine failed; exit code 1
+-- Interrupted                  a signal came before there were ranks; exit code 75
"""

from .contract.exit_codes import CONTINUE
from .contract.preemption import signal_name


class LauncherError(Exception):
    """Base of everything that the launcher raises on purpose; printed as one sentence."""

    exit_code = 1


class UsageError(LauncherError, ValueError):
    """What was asked is wrong or impossible here. Raised before any rank is started."""

    exit_code = 2


class ToldElsewhere(UsageError):
    """As UsageError, where another process of the same start prints the sentence."""


class StartError(LauncherError, RuntimeError):
    """The ranks could not be started, though what was asked is sound."""


class Interrupted(LauncherError):
    """The run was asked to leave while it had no ranks: nothing was begun, nothing is lost."""

    exit_code = CONTINUE

    def __init__(self, signum: int) -> None:
        super().__init__(
            f"{signal_name(signum)} came before the ranks were started; the same command starts "
            "the run."
        )
        self.signum = signum

    def before_restart(self, number: int) -> str:
        """Return the sentence about a run that was asked to leave between two attempts."""
        return (
            f"{signal_name(self.signum)}: asked to leave before restart {number}; the same command "
            "goes on."
        )
