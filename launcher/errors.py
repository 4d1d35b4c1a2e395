"""The exceptions of the launcher.

LauncherError
+-- UsageError (ValueError)      what was asked cannot be done; leaves with exit code 2
|   +-- ToldElsewhere            another process of the same start says why
+-- StartError (RuntimeError)    it could be done, but this machine failed; exit code 1
+-- RunOver                      the run ended without this node; the run's own exit code
+-- Interrupted                  contract.interrupted: a signal came before there were ranks
"""


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


class RunOver(LauncherError):
    """The run ended before this node could join it; it leaves with the run's exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
