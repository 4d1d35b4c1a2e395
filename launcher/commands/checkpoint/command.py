"""The sub-commands, their options and their exit codes."""

import argparse
from collections.abc import Sequence

from checkpointing import CheckpointError, NoCheckpointError

from ...command_line.subcommand_parser import CommandParser
from ...errors import UsageError
from ...terminal.console import say
from ...terminal.printable import printable
from . import diff, export, pin, prune, show, verify
from . import import_ as importing
from . import list_ as listing
from .answers import DAMAGED

_COMMANDS = {
    "list": listing,
    "show": show,
    "verify": verify,
    "diff": diff,
    "pin": pin,
    "prune": prune,
    "export": export,
    "import": importing,
}

_EPILOG = """\
FOLDER is a run folder, a folder of checkpoints (RUN/checkpoints, RUN/best), or one checkpoint; or
the URL of one of these, such as s3://bucket/run.

exit codes:
  0  fine     1  damage or differences found, or a disk error     2  wrong usage
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of everything after `relaunch checkpoint`."""
    parser = CommandParser(
        prog="relaunch checkpoint",
        description="List, verify, compare, pin, prune, export and import checkpoints.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def run(argv: Sequence[str]) -> int:
    """Run `relaunch checkpoint` and return the exit code.

    Raises:
        UsageError: The words are wrong, or there is no such checkpoint.
        SystemExit: 0, after `--help` was printed.
    """
    given = build_parser().parse_args(argv)
    try:
        code: int = _COMMANDS[given.command].run(given)
    except NoCheckpointError as error:
        raise UsageError(str(error)) from error
    except (CheckpointError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise  # nobody reads what is printed
        say(f"error: {printable(str(error))}")
        return DAMAGED
    return code
