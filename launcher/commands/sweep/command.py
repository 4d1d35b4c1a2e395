"""`relaunch sweep`: its options, the plan in a file, and one trial after the other."""

import argparse
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strategies.stopping.improvement import KNOWN_MODES

from ...command_line.argv import read_words
from ...command_line.subcommand_parser import CommandParser
from ...contract.exit_codes import CONTINUE, DONE, USAGE
from ...contract.launcher_signals import SignalInbox
from ...contract.masking import mask_arguments, secrets_of
from ...errors import UsageError
from ...run_folder.history import is_over, read_run
from ...run_folder.jsonl import EVENTS
from ...run_folder.lines.fields import parse
from ...run_folder.plain_files import replace_text
from ...terminal.console import say
from .results import Result, best_of, spread_table, trial_table
from .search import FixedSearch, OptunaSearch, Search
from .space import Parameters, draw, grid, parse_space, repeated
from .trial import PRUNED, command_of, last_error, run_trial

PLAN = "sweep.json"
RESULTS = "results.txt"

_EPILOG = """\
  relaunch sweep --sweep-dir runs/s --monitor val/loss lr=1e-4:1e-1:log -- train.py
  relaunch sweep --sweep-dir runs/g --monitor val/loss --search grid width=16,32 -- train.py
  relaunch sweep --sweep-dir runs/k --monitor val/loss --folds 5 -- train.py
  relaunch sweep --sweep-dir runs/r --monitor val/loss --seeds 5 -- train.py

NAME=A,B,C is a list, NAME=LOW:HIGH a range, NAME=LOW:HIGH:log a range on a logarithmic scale.
The script gets --NAME=VALUE; with --seeds also --seed=K, with --folds also --fold=K --folds=N.
After -- follow relaunch's options, the script and its arguments. Each trial is a run in its own
folder; the same command continues an interrupted sweep.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of everything after `relaunch sweep`, up to `--`."""
    parser = CommandParser(
        prog="relaunch sweep",
        usage="relaunch sweep --sweep-dir DIR --monitor NAME [options] [NAME=VALUES ...] -- "
        "[relaunch's options] script.py [its arguments]",
        description="Search settings, repeat over seeds, or cross-validate.",
        epilog=_EPILOG,
    )
    parser.add_argument("space", nargs="*", metavar="NAME=VALUES")
    parser.add_argument(
        "--sweep-dir", type=Path, required=True, metavar="DIR", help="folder of the trials"
    )
    parser.add_argument("--monitor", required=True, metavar="NAME", help="such as val/loss")
    parser.add_argument(
        "--mode", choices=("min", "max"), help="which is better; default: implied by the name"
    )
    parser.add_argument("--search", choices=("grid", "random", "optuna"), default="random")
    parser.add_argument(
        "--trials", type=int, default=10, metavar="N", help="number of trials; not for a grid"
    )
    parser.add_argument(
        "--search-seed", type=int, default=0, metavar="S", help="seed of the search"
    )
    parser.add_argument(
        "--seeds", type=int, default=0, metavar="N", help="repeat each setting with N seeds"
    )
    parser.add_argument(
        "--folds", type=int, default=0, metavar="N", help="cross-validate with N folds"
    )
    return parser


def run(argv: Sequence[str]) -> int:
    """Run `relaunch sweep` and return the exit code.

    Raises:
        UsageError: the words are wrong, or the folder holds another sweep or cannot be written.
        SystemExit: 0, after `--help` was printed.
    """
    cut = list(argv).index("--") if "--" in argv else len(argv)
    given = build_parser().parse_args(argv[:cut])
    words = tuple(argv[cut + 1 :])
    if not words:
        raise UsageError("no script is given: relaunch sweep ... -- script.py.")
    _require_own_places(words)
    given.mode = _mode(given)
    search = _search(given)
    try:
        _keep_plan(given, words)
    except OSError as error:
        raise UsageError(
            f"--sweep-dir {given.sweep_dir} cannot be written: {error.strerror}. Choose another."
        ) from error
    try:
        return _run_trials(given, words, search)
    except OSError as error:
        what = error.filename or given.sweep_dir
        say(f"error: {what}: {error.strerror}. Afterwards the same command continues the sweep.")
        return 1


def _run_trials(given: argparse.Namespace, words: Sequence[str], search: Search) -> int:
    """Run one trial after the other; return the exit code.

    Raises:
        OSError: the folder of a trial, or the records of the search, cannot be written.
    """
    inbox = SignalInbox()
    inbox.install()
    inbox.ranks_start()
    results: list[Result] = []
    number = 0
    while inbox.warned_by is None and (parameters := search.trial(number)) is not None:
        folder = given.sweep_dir / f"trial-{number:03d}"
        if search.is_given_up(number) and not _is_over(folder):
            results.append(Result(number=number, parameters=parameters, state="given up"))
            _show(results, given)
            number += 1
            continue
        code = _run_unless_over(number, given, words, search, folder, inbox)
        result = _result(number, parameters, folder, given, code)
        if result.state != "left":
            search.finished(number, result.value, pruned=result.state == "pruned")
        results.append(result)
        _show(results, given)
        if code == USAGE:
            say(f"error: trial {number} cannot be started: {last_error(folder)}")
            return USAGE
        if result.state == "left":
            break
        number += 1
    if inbox.warned_by is not None:
        say("preempted: the same command continues the sweep.")
        return CONTINUE
    print(f"\n{_tables(results, given)}", end="")
    return DONE if any(r.value is not None for r in results) else 1


def _mode(given: argparse.Namespace) -> str:
    """Return which values of the monitored metric are better.

    Raises:
        UsageError: its name does not say it, or says the contrary of --mode.
    """
    name = given.monitor.rpartition("/")[2]
    known = KNOWN_MODES.get(name)
    mode: str | None = given.mode or known
    if mode is None:
        raise UsageError(
            f"--monitor {given.monitor} needs --mode min or --mode max: whether a lower or a "
            f'higher "{name}" is better is not known.'
        )
    if known not in (None, mode):
        better = "lower" if known == "min" else "higher"
        raise UsageError(
            f"--monitor {given.monitor} --mode {mode}: a {better} {name} is better. "
            "Leave --mode out."
        )
    return mode


def _require_own_places(words: Sequence[str]) -> None:
    """Refuse one place for the checkpoints of several runs."""
    place = read_words(words, os.environ).given.get("--checkpoints")
    if place is not None:
        raise UsageError(
            f"--checkpoints {place.text} is one place, and each trial needs its own. Leave it out: "
            "a trial's checkpoints are in its folder below --sweep-dir."
        )


def _search(given: argparse.Namespace) -> Search:
    space = parse_space(given.space)
    for name in ("trials", "seeds", "folds"):
        if getattr(given, name) < (1 if name == "trials" else 0):
            raise UsageError(f"--{name} {getattr(given, name)} is too small.")
    if given.folds == 1:
        raise UsageError("--folds 1 leaves nothing to train on; pass 2 or more.")
    if not space and not given.seeds and not given.folds:
        raise UsageError("nothing is searched: give NAME=VALUES, --seeds N or --folds N.")
    if given.search == "optuna" and space:
        given.sweep_dir.mkdir(parents=True, exist_ok=True)
        repeats = repeated([{}], seeds=given.seeds, folds=given.folds)
        return OptunaSearch(
            space, given.trials, given.search_seed, given.mode, given.sweep_dir, repeats
        )
    if given.search == "grid" or not space:
        trials = grid(space)
    else:
        trials = draw(space, given.trials, given.search_seed)
    return FixedSearch(repeated(trials, seeds=given.seeds, folds=given.folds))


def _keep_plan(given: argparse.Namespace, words: Sequence[str]) -> None:
    """Write down what is searched; refuse another search in the same folder."""
    shown = _shown(words)
    plan: dict[str, Any] = {**vars(given), "sweep_dir": None, "words": shown}
    # More trials may be asked for later: the first ones stay the same.
    fixed = {key: value for key, value in plan.items() if key not in ("trials", "sweep_dir")}
    given.sweep_dir.mkdir(parents=True, exist_ok=True)
    path = given.sweep_dir / PLAN
    if path.exists():
        before = parse(path.read_bytes())
        if before is None:
            raise UsageError(f"{path} is damaged. Remove it, or choose another --sweep-dir.")
        before["words"] = _shown(before.get("words", ()))
        changed = [key for key, value in fixed.items() if before.get(key) != value]
        if changed:
            raise UsageError(
                f"{given.sweep_dir} holds a sweep with another {', '.join(changed)}. Use the same, "
                "or another --sweep-dir."
            )
    replace_text(path, json.dumps(fixed, indent=2) + "\n")


def _shown(words: Sequence[str]) -> list[str]:
    """Return words without their secrets, for the console and for a file that others may read."""
    return mask_arguments(words, secrets_of(os.environ))


def _run_unless_over(
    number: int,
    given: argparse.Namespace,
    words: Sequence[str],
    search: Search,
    folder: Path,
    inbox: SignalInbox,
) -> int:
    if (folder / PRUNED).exists() or _is_over(folder):
        return DONE
    parameters = search.trial(number)
    assert parameters is not None
    label = " ".join(_shown([f"{name}={value}" for name, value in parameters.items()]))
    say(f"trial {number}: {label or shlex.join(_shown(words))}")
    return run_trial(
        command_of(words, parameters, folder),
        folder,
        monitor=given.monitor,
        inbox=inbox,
        is_hopeless=lambda step, value: search.is_hopeless(number, step, value),
    )


def _is_over(folder: Path) -> bool:
    return (folder / EVENTS).exists() and is_over(folder)


def _result(
    number: int, parameters: Parameters, folder: Path, given: argparse.Namespace, code: int
) -> Result:
    found = None
    if (folder / EVENTS).exists():
        found = best_of(read_run(folder), given.monitor, given.mode)
    if (folder / PRUNED).exists():
        state = "pruned"
    elif code == CONTINUE:
        state = "left"
    else:
        state = "finished" if code == DONE else f"failed ({code})"
    value, step = found if found is not None and code in (DONE, CONTINUE) else (None, None)
    return Result(number=number, parameters=parameters, state=state, value=value, step=step)


def _show(results: Sequence[Result], given: argparse.Namespace) -> None:
    """Rewrite the tables; a reader never sees half of one. No trial depends on them."""
    path = given.sweep_dir / RESULTS
    try:
        replace_text(path, _tables(results, given))
    except OSError as error:
        say(f"warning: {path} cannot be written ({error.strerror}); the sweep continues.")


def _tables(results: Sequence[Result], given: argparse.Namespace) -> str:
    text = trial_table(results, given.monitor, given.mode)
    if given.seeds or given.folds:
        text += "\n\n" + spread_table(results, given.monitor, given.mode)
    return text + "\n"
