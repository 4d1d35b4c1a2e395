"""A signal came before there were ranks.

Apart from `launcher_signals`, which is imported before any handler is installed.
"""

from ..errors import LauncherError
from .exit_codes import CONTINUE
from .preemption import signal_name


class Interrupted(LauncherError):
    """The run was preempted while it had no ranks: nothing was begun, nothing is lost."""

    exit_code = CONTINUE

    def __init__(self, signum: int) -> None:
        super().__init__(
            f"{signal_name(signum)} came before the ranks were started; the same command starts "
            "the run."
        )
        self.signum = signum

    def before_restart(self, number: int) -> str:
        """Return the sentence about a run that was preempted between two attempts."""
        return (
            f"{signal_name(self.signum)}: preempted before restart {number}; the same command "
            "resumes the run."
        )
