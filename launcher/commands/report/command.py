"""`relaunch report`: its options, and what it writes and prints."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...command_line.subcommand_parser import CommandParser
from ...errors import UsageError
from ...run_folder.history import RunFacts, read_run
from ...run_folder.plain_files import replace_text
from ...terminal.console import say
from .curves import NoMatplotlibError, draw
from .page import comparison, page

REPORT = "report.md"
CURVES = "curves.png"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of everything after `relaunch report`."""
    parser = CommandParser(
        prog="relaunch report",
        description="Write RUN/report.md and RUN/curves.png, for running and finished runs, and "
        "compare several in one table.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    return parser


def run(argv: Sequence[str]) -> int:
    """Run `relaunch report` and return the exit code.

    Of several folders those that are no run's are left out, and told.

    Raises:
        UsageError: the words are wrong, or no folder is a run's.
        SystemExit: 0, after `--help` was printed.
    """
    found: list[RunFacts] = []
    no_runs: list[UsageError] = []
    code = 0
    for path in build_parser().parse_args(argv).runs:
        try:
            found.append(read_run(path))
        except UsageError as error:
            no_runs.append(error)
        except OSError as error:
            say(f"error: {error.filename} cannot be read: {error.strerror}.")
            code = 1
    if no_runs and not found:
        raise no_runs[0]
    for no_run in no_runs:
        say(f"error: {no_run}")
        code = 1
    for facts in found:
        try:
            print(f"wrote {write_report(facts)}")
        except OSError as error:
            reason = error.strerror or error
            say(f"error: the report of {facts.path} cannot be written: {reason}.")
            code = 1
    if found:
        print(f"\n{comparison(found)}")
    return code


def write_report(facts: RunFacts) -> str:
    """Write the page and the picture into the run folder; return what was written.

    Raises:
        OSError: the folder cannot be written.
    """
    missing = "" if facts.records.count else "nothing has been measured yet."
    try:
        if facts.records.count:
            # Never through a link that somebody has left in a shared folder.
            draft = facts.path / f".draft-{CURVES}"
            draft.unlink(missing_ok=True)
            draw(facts, draft)
            draft.replace(facts.path / CURVES)
    except NoMatplotlibError as error:
        missing = str(error)
    text = page(facts, picture=None if missing else CURVES, missing=missing)
    replace_text(facts.path / REPORT, text)
    written = str(facts.path / REPORT)
    return f"{written}; {missing}" if missing else f"{written} and {CURVES}"
