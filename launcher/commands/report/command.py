"""`relaunch report`: its options, and what it writes and prints."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...command_line.subcommand_parser import CommandParser
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

    Raises:
        UsageError: the words are wrong, or a folder is no run's.
        SystemExit: 0, after `--help` was printed.
    """
    paths = build_parser().parse_args(argv).runs
    try:
        found = [read_run(path) for path in paths]
    except OSError as error:
        say(f"error: {error.filename} cannot be read: {error.strerror}.")
        return 1
    try:
        for facts in found:
            print(f"wrote {write_report(facts)}")
    except OSError as error:
        say(f"error: the report cannot be written: {error}")
        return 1
    print(f"\n{comparison(found)}")
    return 0


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
