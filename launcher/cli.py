"""The entry point of `relaunch`: signals first, then everything else.

From its first line on a preemption notice is remembered, and the run ends with a code that says so.
Therefore nothing is imported here before the handlers are installed but what they need.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .command_line.subcommands import SUBCOMMANDS
from .contract.launcher_signals import SignalInbox


def main(argv: Sequence[str] | None = None, inbox: SignalInbox | None = None) -> NoReturn:
    """Run the command and exit.

    Args:
        argv: The words after `relaunch`; None: those of this process.
        inbox: One that is installed already; None: a new one.

    Raises:
        SystemExit: Always; the codes are those of `exit_codes`.
    """
    words = sys.argv[1:] if argv is None else argv
    inbox = inbox or SignalInbox()
    is_start = _is_start(words)
    if is_start:
        inbox.install()
    from .command import leave_with

    code = leave_with(words, inbox)
    if is_start:
        inbox.close()
    sys.exit(code)


def _is_start(words: Sequence[str]) -> bool:
    """Return whether the words start a run; else they are a subcommand."""
    return not words or words[0] not in SUBCOMMANDS


def console() -> NoReturn:
    """Run the command as a process of its own: `main`, and a quick end."""
    inbox = SignalInbox()
    if os.getpid() == 1 and _is_start(sys.argv[1:]):
        from .workers.init_process import child_of_init

        with child_of_init():
            inbox.install()
    try:
        main(inbox=inbox)
    except SystemExit as leaving:
        if not isinstance(leaving.code, int):
            raise
        from .workers.process_end import end_launcher

        end_launcher(leaving.code)
