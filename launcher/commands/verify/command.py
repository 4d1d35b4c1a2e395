"""`relaunch verify`: its options, the trials one after the other, and the exit code."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from strategies.parallel.registry import STRATEGY_NAMES

from ...command_line.subcommand_parser import CommandParser
from ...contract.launcher_signals import SignalInbox
from ...errors import UsageError
from ...plan.program import Program, ProgramKind
from ...plan.program_source import ProgramSource, read_source
from ...terminal.console import say
from ..trials.compare import TOLERANCE, compare
from ..trials.outcome import Outcome, outcome_of
from ..trials.run_trial import TIMED_OUT, Trial, run_trial, script_of, start_trial
from ..trials.warm_launchers import Start, warm_starts
from .causes import Cause, Seen
from .observe import seen_in, seen_twice, with_repeat
from .report import Report, run_entry, timed_out_text, without_run_document, without_run_text
from .trial_plan import (
    DDP,
    Asked,
    again,
    interrupted,
    numbers,
    resumed,
    trials_of,
    without_engine,
)
from .verdict import (
    APART,
    EQUAL,
    FAILED,
    Row,
    compared_row,
    failed_row,
    file_rows,
    warning_lines,
    why_failed,
)

FINE, DIFFERENT = 0, 1
_LOOSE = 1e-2
"""Of fewer bits than float32 has."""
_TOLD = ("collective of its own", "is a mean", "not computed through job.model")
_PREEMPTED = 75
_OURS = ("--strategy", "--nproc-per-node", "--nproc_per_node", "--run-dir")

_EPILOG = """\
examples:
  relaunch verify train.py
  relaunch verify --steps 12 --ranks 1,2,4 --strategies ddp,fsdp train.py --lr 1e-3
  relaunch verify --steps 12 -- --precision bf16 train.py

After -- follow relaunch's options, the script and its arguments. The script runs in this folder
and trains for a few steps, in new run folders; other files are written as usual.
Exit codes: 0 the same everywhere, 1 not, 2 wrong usage.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of everything after `relaunch verify`."""
    parser = CommandParser(
        prog="relaunch verify",
        usage="relaunch verify [options] [-- relaunch's options] script.py [its arguments]",
        description="Train a few steps of a script on 1, 2 and 3 ranks, under each strategy and "
        "across a resume; print where runs differ, and the usual cause.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--steps", type=int, default=6, metavar="N", help="optimizer steps of a run (default 6)")
    add("--ranks", default="1,2,3", metavar="N,...", help="numbers of ranks (default 1,2,3)")
    add("--strategies", metavar="S,...", help="default: ddp, fsdp, zero1, zero2, zero3")
    add("--tolerance", type=float, metavar="X", help="what counts as equal (default: 1e-6 in fp32)")
    add(
        "--timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="seconds for one run (default 120)",
    )
    add("--no-resume", action="store_true", help="skip the interrupted run")
    add("--work-dir", type=Path, metavar="DIR", help="folder in which to keep the runs")
    add("--json", action="store_true", help="print one JSON document")
    add("words", nargs=argparse.REMAINDER, metavar="SCRIPT")
    return parser


def run(argv: Sequence[str]) -> int:
    """Run `relaunch verify` and return the exit code.

    Raises:
        UsageError: the words are wrong, or there is nothing that could be compared.
        SystemExit: 0, after `--help` was printed.
    """
    given = _parsed(argv)
    folder = given.work_dir or Path(tempfile.mkdtemp(prefix="relaunch-verify-"))
    try:
        asked, tolerance = _asked(given, folder), _tolerance(given)
        inbox = SignalInbox()
        inbox.install()
        inbox.ranks_start()
        return _Verification(
            asked,
            tolerance,
            resumes=not given.no_resume,
            as_json=given.json,
            stops=lambda: inbox.warned_by,
        ).run()
    except OSError as error:
        raise UsageError(
            f"the runs cannot be kept in {folder}: {error}. Pass --work-dir DIR with more room, or "
            "fewer --steps."
        ) from error
    finally:
        if given.work_dir is None:
            shutil.rmtree(folder, ignore_errors=True)


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options, and in `words` what is as for relaunch."""
    words = list(argv)
    script = next((n for n, word in enumerate(words) if word.endswith(".py")), len(words))
    if "--" not in words[:script]:
        return build_parser().parse_args(words)
    cut = words.index("--")
    given = build_parser().parse_args(words[:cut])
    given.words = words[cut + 1 :]
    if own := [word for word in words[cut:script] if word.partition("=")[0] in _OURS]:
        raise UsageError(f"{own[0]} is chosen by relaunch verify: see --ranks, --strategies.")
    return given


def _tolerance(given: argparse.Namespace) -> float:
    if given.tolerance is not None:
        if not given.tolerance >= 0:
            raise UsageError(f"--tolerance {given.tolerance} must be 0 or more.")
        return float(given.tolerance)
    is_coarse = re.search(r"--precision[ =](bf|fp)16", " ".join(given.words))
    return _LOOSE if is_coarse else TOLERANCE


def _asked(given: argparse.Namespace, folder: Path) -> Asked:
    """Return what was asked.

    Raises:
        UsageError: it cannot be done.
    """
    script = script_of(given.words)
    if script is None or not Path(script).is_file():
        what = "a script is missing" if script is None else f"{script} is no file"
        raise UsageError(f"{what}: relaunch verify [options] train.py [arguments].")
    if given.steps < 2:
        raise UsageError(f"--steps {given.steps} is too few: the resume needs 2 or more.")
    if not given.timeout > 0:
        raise UsageError(f"--timeout {given.timeout:g} must be above 0.")
    if given.work_dir is not None and any(Path(folder).glob("*/run")):
        raise UsageError(f"--work-dir {folder} holds runs already. Remove it, or name another.")
    try:
        ranks = numbers(given.ranks)
    except ValueError:
        raise UsageError(f"--ranks {given.ranks} must be numbers such as 1,2,3.") from None
    named = given.strategies.split(",") if given.strategies else None
    if unknown := [one for one in named or () if one not in STRATEGY_NAMES]:
        choices = ", ".join(STRATEGY_NAMES)
        raise UsageError(f'--strategies: unknown strategy "{unknown[0]}"; choose from {choices}.')
    usual = [name for name in STRATEGY_NAMES if name not in ("single", "accelerate")]
    return Asked(
        words=tuple(given.words),
        ranks=ranks,
        strategies=tuple(
            named or without_engine(usual, has_deepspeed=find_spec("deepspeed") is not None)
        ),
        are_named=named is not None,
        steps=given.steps,
        timeout_s=given.timeout,
        folder=folder.absolute(),
        names_strategy=named is not None or not _source_of(script).decides_strategy(),
    )


def _source_of(script: str) -> ProgramSource:
    return read_source(Program(kind=ProgramKind.SCRIPT, name=script, args=()))


class _Verification:
    """The trials of one script, and what was seen of them."""

    def __init__(
        self,
        asked: Asked,
        tolerance: float,
        *,
        resumes: bool,
        as_json: bool,
        stops: Callable[[], int | None],
    ) -> None:
        self._asked = asked
        self._stops = stops
        self._tolerance = tolerance
        self._resumes = resumes
        self._as_json = as_json
        self._outcomes: dict[str, Outcome] = {}
        self._start: Start = start_trial
        self._twice = Seen()
        """Of the first run done twice; all False where there was no reason to look."""

    def run(self) -> int:
        """Run all trials, print the table and what is wrong; return the exit code.

        Raises:
            UsageError: the first trial shows that nothing can be compared.
        """
        first, *others = trials_of(self._asked)
        base = self._outcome(first)
        if base.uses_run and base.code == FINE and not self._asked.names_strategy:
            # Its source did not show that it trains with Run.
            first, *others = trials_of(replace(self._asked, names_strategy=True))
            base = replace(base, name=first.name)
        # A script that has come to nothing shows in its source alone what it uses.
        if base.code not in (FINE, TIMED_OUT) and (base.uses_run or self._calls_run()):
            return self._failed(base)
        if not base.uses_run and base.code != TIMED_OUT:
            return self._without_run(first, base, others)
        self._require_comparable(first, base)
        # The first run and its repetitions have a Python of their own each: with another hash seed.
        with warm_starts(others[-1] if others else first, uses_run=base.uses_run) as start:
            self._start = start
            rows = [self._row(base, other) for other in others]
            rows = self._explained(first, base, rows)
            if self._resumes:
                rows.append(self._resumed(first, others, rows))
        rows += file_rows([*self._outcomes.values()])
        return self._report(base, rows)

    def _calls_run(self) -> bool:
        script = script_of(self._asked.words)
        return script is not None and _source_of(script).calls_run_start()

    def _outcome(self, trial: Trial, start: Start = start_trial) -> Outcome:
        say(f"running {trial.name}")
        outcome = outcome_of(trial, run_trial(trial, self._stops, start))
        self._outcomes[trial.name] = outcome
        return outcome

    def _require_comparable(self, trial: Trial, base: Outcome) -> None:
        if base.code == TIMED_OUT:
            raise UsageError(timed_out_text(trial, base))
        if not base.steps:
            raise UsageError(
                f"{trial.name} ended without a step of run.prepare's loop, so that nothing can be "
                "compared."
            )

    def _without_run(self, first: Trial, base: Outcome, others: Sequence[Trial]) -> int:
        """Check what can be checked of a script that does not use `Run`: its exit codes."""
        plain = [first, *(one for one in others if one.strategy == DDP)]
        outcomes = [base, *(self._outcome(one) for one in plain[1:])]
        text = without_run_text(script_of(self._asked.words), outcomes)
        self._print(text, without_run_document(outcomes))
        return FINE if not any(one.code for one in outcomes) else DIFFERENT

    def _failed(self, base: Outcome) -> int:
        """Report that the script does not run at all."""
        why = why_failed(base)
        entry = {**run_entry(base), "verdict": FAILED, "sentence": why}
        document = {"equal": False, "uses_run": base.uses_run, "runs": [entry]}
        self._print(f"the script does not run as {base.name}: {why}", document)
        return DIFFERENT

    def _print(self, text: str, document: Mapping[str, Any]) -> None:
        print(json.dumps(document) if self._as_json else text)

    def _row(self, base: Outcome, trial: Trial) -> Row:
        outcome = self._outcome(trial, self._start)
        if outcome.code != 0:
            return failed_row(outcome)
        found = compare(base, outcome, tolerance=self._tolerance)
        return compared_row(base, outcome, found, seen_in(base, outcome, found))

    def _explained(self, first: Trial, base: Outcome, rows: list[Row]) -> list[Row]:
        """Return the rows with causes that need more trials: the first one again, and so on."""
        # Another number of samples in a step explains all that follows.
        unclear = [row for row in rows if row.cause is not Cause.PER_DEVICE_BATCH]
        if self._found(base, unclear).is_equal:
            return rows
        repeat = self._outcome(again(first, "again"))
        same = compare(base, repeat, tolerance=self._tolerance)
        self._twice = self._look_twice(first, seen_twice(base, repeat, same))
        ddp_is_equal = {
            r.outcome.ranks for r in rows if r.outcome.strategy == DDP and r.verdict == EQUAL
        }
        explained = []
        for row in rows:
            if row.comparison is None or row.verdict != APART:
                explained.append(row)
                continue
            seen = seen_in(base, row.outcome, row.comparison)
            seen = replace(seen, ddp_is_equal=row.outcome.ranks in ddp_is_equal)
            seen = with_repeat(seen, self._twice)
            explained.append(compared_row(base, row.outcome, row.comparison, seen))
        if self._twice.repeat_differs:
            explained.append(compared_row(base, repeat, same, self._twice))
        return explained

    def _look_twice(self, first: Trial, twice: Seen) -> Seen:
        """Return what is seen of the first run done again, and once more with one thing changed."""
        if not twice.repeat_differs:
            return twice
        differs = self._differs_twice(first, "hashed", hashed=True)
        twice = replace(twice, repeat_differs_hashed=differs)
        if not differs or twice.repeat_data_differs or twice.repeat_weights_differ:
            return twice
        differs = self._differs_twice(first, "deterministic", deterministic=True)
        return replace(twice, repeat_differs_deterministic=differs)

    def _differs_twice(self, first: Trial, label: str, **options: bool) -> bool:
        one, two = (self._outcome(again(first, f"{label} {n}", **options)) for n in (1, 2))
        return seen_twice(one, two, compare(one, two, tolerance=self._tolerance)).repeat_differs

    def _resumed(self, first: Trial, others: Sequence[Trial], rows: Sequence[Row]) -> Row:
        """Interrupt a run in its middle, resume it, and compare it with the undisturbed one."""
        fine = {row.outcome.name for row in rows if row.verdict in (EQUAL, APART)}
        plain = next((one for one in others if one.name in fine), first)
        undisturbed, trial = self._outcomes[plain.name], interrupted(plain)
        left = self._outcome(trial, self._start)
        code = left.code
        # A run may be over before the notice is taken: then there is nothing to resume.
        ended = self._outcome(resumed(trial), self._start) if code == _PREEMPTED else left
        ended = replace(ended, name=f"{plain.name}, resumed")
        if ended.code != 0 and code == _PREEMPTED:
            return failed_row(ended)
        found = compare(undisturbed, ended, tolerance=self._tolerance)
        at_save = max(left.steps, default=None)
        seen = replace(
            seen_in(undisturbed, ended, found),
            is_resume=True,
            notice_code=code,
            differs_at_save=at_save is not None and found.step == at_save,
            ends_differ=undisturbed.end_step != ended.end_step,
        )
        return compared_row(undisturbed, ended, found, with_repeat(seen, self._twice))

    def _report(self, base: Outcome, rows: Sequence[Row]) -> int:
        report = self._found(base, rows)
        self._print(report.text(), report.document())
        return FINE if report.is_equal else DIFFERENT

    def _found(self, base: Outcome, rows: Sequence[Row]) -> Report:
        return Report(
            first=base,
            rows=tuple(rows),
            tolerance=self._tolerance,
            strategies_are_named=self._asked.are_named,
            warnings=tuple(warning_lines([*self._outcomes.values()], _TOLD)),
        )
