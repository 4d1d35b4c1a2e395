"""The `relaunch` command: options, checks, launch, exit code.

Until the ranks are about to be started nothing here imports torch, so that `--help` and a mistake
cost a few hundredths of a second.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from .command_line import help_text, parse_command_line
from .console import say
from .errors import LauncherError
from .gpus import Machine, count_installed, count_visible
from .plan import make_plan, prepare_run_folder
from .signal_inbox import SignalInbox

SUBCOMMANDS = {
    "checkpoint": ".checkpoint_command",
    "report": ".report_command",
    "watch": ".watch_command",
}
"""The first word, and the module whose `run` does the rest and returns the exit code."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; the entry point.

    Raises:
        SystemExit: Always; the codes are those of `exit_codes`.
    """
    words = sys.argv[1:] if argv is None else argv
    inbox = SignalInbox()
    try:
        if words and words[0] in SUBCOMMANDS:
            code = import_module(SUBCOMMANDS[words[0]], __package__).run(words[1:])
        else:
            inbox.install()
            code = run(words, inbox)
    except LauncherError as error:
        say(f"error: {error}")
        code = error.exit_code
    sys.exit(code)


def run(argv: Sequence[str], inbox: SignalInbox) -> int:
    """Do what the words after `relaunch` say and return the exit code.

    Raises:
        LauncherError: Something is wrong with what was asked, or with this machine.
    """
    environ = dict(os.environ)
    options = parse_command_line(argv, environ)
    if isinstance(options, str):
        print(help_text() if options == "--help" else f"relaunch {version()}")
        return 0
    inbox.install(options.warning_signals)
    for note in options.notes:
        say(note)
    plan = make_plan(options, machine(environ.get("CUDA_VISIBLE_DEVICES")))
    if options.dry_run:
        from .dry_run import describe

        print(describe(plan, environ))
        return 0
    prepare_run_folder(options.run_dir)
    from .launch import launch  # after every check: a mistake is told without what a launch needs

    return launch(plan, inbox, environ, say)


def machine(cuda_visible_devices: str | None) -> Machine:
    """Look at this machine; takes milliseconds and starts no CUDA."""
    return Machine(
        num_gpus=count_visible(cuda_visible_devices, count_installed()),
        num_cpus=len(os.sched_getaffinity(0)),
        cuda_visible_devices=cuda_visible_devices,
    )


def version() -> str:
    """Return the installed version."""
    from importlib import metadata

    try:
        return metadata.version("relaunch")
    except metadata.PackageNotFoundError:
        return "(not installed)"
