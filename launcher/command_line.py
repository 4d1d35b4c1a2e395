"""From the words of the command line to LaunchOptions.

The command's own options end at the script; everything after it belongs to the script. Dashes and
underscores are the same thing in an option's name.
"""

import argparse
import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from strategies.parallel.table import STRATEGY_NAMES
from strategies.precision_names import PRECISION_NAMES

from .errors import UsageError
from .options import LaunchOptions, parse_int, parse_names, parse_nproc, parse_seconds

_DESCRIPTION = "Start a PyTorch training script on the GPUs of this machine."

_EPILOG = """\
exit codes:
  0    done                             2      wrong usage
  75   saved; the same command goes on  93     do not retry
  else the code of the rank that failed first; 128+n when signal n ended it

signals to relaunch:
  SIGTERM, SIGUSR1, SIGUSR2, SIGHUP, Ctrl-C   each rank is told once to save and to leave
  Ctrl-C again                                the ranks are killed now
"""


class _Parser(argparse.ArgumentParser):
    """argparse which raises UsageError instead of leaving by itself."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See relaunch --help.")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's own options, without the script."""
    parser = _Parser(
        prog="relaunch",
        usage="relaunch [options] script.py [script args]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--nproc-per-node",
        metavar="N",
        help="ranks on this machine: a number; gpu: one per visible GPU; cpu: one per CPU; auto: "
        "gpu where there is one, else cpu (as torchrun). Left out: one per visible GPU, one rank "
        "where there is none",
    )
    add("--strategy", metavar="NAME", help=", ".join(STRATEGY_NAMES))
    add("--precision", metavar="NAME", help=", ".join(PRECISION_NAMES))
    add("--run-dir", metavar="DIR", help="the run's folder: checkpoints, metrics, logs")
    add("--log-dir", metavar="DIR", help="logs of the ranks after rank 0 (default: RUN_DIR/logs)")
    add("--max-restarts", metavar="N", help="start failed ranks again at most N times (default 0)")
    add("--grace", metavar="S", help="kill the ranks S seconds after a warning (default: never)")
    add("--cold", action="store_true", help="start each rank as a Python of its own, not as a fork")
    add("--preload", metavar="A,B", help="modules to import once, before the ranks are forked")
    add("--master-addr", metavar="HOST", help="where the ranks meet (default 127.0.0.1)")
    add("--master-port", metavar="PORT", help="the port on which they meet (default: a free one)")
    add("--version", action="store_true", help="print the version and leave")
    return parser


def parse_command_line(argv: Sequence[str]) -> LaunchOptions | None:
    """Turn the words after `relaunch` into options.

    Returns:
        None where only the version is asked for.

    Raises:
        UsageError: An option is unknown, has no value or a wrong one, or there is no script.
        SystemExit: 0, after `--help` was printed.
    """
    parser = build_parser()
    flags = {"--help", "-h", "--version", "--cold"}
    names = {name for action in parser._actions for name in action.option_strings}
    own, rest = split_command(argv, takes_value={name: name not in flags for name in names})
    given = parser.parse_args(own)
    if given.version:
        return None
    if not rest:
        raise UsageError("no script is given: relaunch [options] script.py [script args].")
    return LaunchOptions(
        script=rest[0],
        script_args=tuple(rest[1:]),
        nproc_per_node=parse_nproc(given.nproc_per_node),
        strategy=given.strategy,
        precision=given.precision,
        run_dir=_path(given.run_dir),
        log_dir=_path(given.log_dir),
        master_addr=given.master_addr,
        master_port=parse_int("--master-port", given.master_port),
        max_restarts=parse_int("--max-restarts", given.max_restarts) or 0,
        grace_s=parse_seconds("--grace", given.grace),
        cold=given.cold,
        preload=parse_names(given.preload),
    )


def split_command(
    argv: Sequence[str], takes_value: Mapping[str, bool]
) -> tuple[list[str], list[str]]:
    """Split the words into the command's own options, in one spelling, and the script's words.

    Args:
        argv: The words after `relaunch`.
        takes_value: The names of the options, and whether a value follows.

    Raises:
        UsageError: An option is unknown or the last one lacks its value.
    """
    own: list[str] = []
    words = list(argv)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        spelled, equals, value = word.partition("=")
        name = spelled.replace("_", "-")
        if name not in takes_value:
            raise UsageError(_unknown_option(spelled, takes_value))
        if not takes_value[name]:
            own.append(word.replace("_", "-"))
            continue
        if not equals:
            if not words:
                raise UsageError(f"{spelled} needs a value. See relaunch --help.")
            value = words.pop(0)
        own.append(f"{name}={value}")
    return own, words


def nearest(given: str, valid: Collection[str]) -> str:
    """Return '; did you mean --strategy?', or nothing when no valid name is near."""
    near = difflib.get_close_matches(given, list(valid), n=1)
    return f"; did you mean {near[0]}?" if near else "."


def _unknown_option(spelled: str, valid: Collection[str]) -> str:
    return f"unknown option {spelled}{nearest(spelled.replace('_', '-'), valid)}"


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
