"""One trial: the run, the notice, the run again; and what is wrong with what came of it."""

import contextlib
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from launcher.commands.rehearse.processes import wait_until

from .processes import Started, reach, started, tell
from .seen import Seen, differences
from .trials import RANKS, STARTING, Trial
from .undisturbed import BOUND_S, COMPILE, Undisturbed

DONE, CONTINUE = 0, 75
GONE_S = 2.0
"""How long processes of a run may outlive its launcher."""
TOLERANCE = 1e-6
IGNORED_STEPS = 10
"""So many steps after a notice mean that it was not heard; most of a trial's take a moment only."""
FAULT = "fault"
"""The script's mark of its own failure."""
END_S = 20.0
"""How long the launcher may need for its end once the grace is over, before it counts as hung."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """How the run left after the notice."""

    code: int | None
    """The launcher's exit code; None: it did not end."""
    seconds: float
    """From the notice to the launcher's end."""
    finished: int
    """Steps that all ranks had finished, or that were on disk."""
    processes: int
    """Those of the run that were there two seconds after the launcher's end."""
    told: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a trial."""

    trial: Trial
    left: Left
    lost: int
    """Finished steps that were done again."""
    difference: float
    """The largest to the undisturbed run."""
    wrong: tuple[str, ...]
    """A sentence for each thing that must not be."""


def run_trial(trial: Trial, folder: Path, undisturbed: Undisturbed) -> Verdict:
    """Carry a trial out in a folder, which is made here."""
    folder.mkdir()
    run = Seen(path=folder / "run")
    if trial.phase == "restore":
        shutil.copytree(undisturbed.half(trial.setting.strategy), run.path)
    measured = undisturbed.of(trial.setting, compiles=trial.compiles)
    left = _disturb(trial, folder / "first", run, measured.grace_s(trial.step_s()))
    starts = len(run.events("start"))
    wrong = [*left.wrong, *_go_on(trial, folder / "again", run)]
    begun = run.events("start")[starts:]
    lost = max(0, left.finished - begun[0]["step"]) if begun else 0
    if lost:
        wrong.append(f"{lost} finished steps lost: {left.finished} were done")
    difference = float("nan")
    if begun and not any("again" in sentence for sentence in wrong):
        difference, unlike = differences(run, measured.run)
        wrong += unlike
        if not difference <= TOLERANCE:
            wrong.append(f"differs from the undisturbed run by {difference:.3g}")
    return Verdict(trial=trial, left=left, lost=lost, difference=difference, wrong=tuple(wrong))


def _disturb(trial: Trial, folder: Path, run: Seen, grace_s: float) -> Left:
    """Start the run and send it its notice."""
    hold_s = trial.hold_s(grace_s)
    place = {"phase": trial.phase, "at": trial.at, "who": trial.who, "hold_s": hold_s}
    options = ["--grace", f"{grace_s:.3f}"]
    environ = _environ(trial)
    if trial.phase == "restart":
        options += ["--max-restarts", "2"]
    with started(
        trial.setting, folder, run.path, options=tuple(options), place=place, environ=environ
    ) as launched:
        wrong = []
        restarted = trial.phase == "restart" and trial.target == "rank"
        if not reach(launched, trial.phase, BOUND_S, restarted=restarted):
            wrong.append(f'the phase "{trial.phase}" never began')
        time.sleep(trial.delay_s(grace_s))
        was_there = not launched.has_ended()
        rng = random.Random(trial.number)
        before, sent_s = finished_steps(launched.marks), time.monotonic()
        sent = tell(launched, trial.target, trial.rank, trial.signals, rng)
        if not sent and was_there and not launched.has_ended():
            wrong.append("nobody was told")
        _let_the_grace_pass(trial, launched, grace_s)
        wait_until(launched.has_ended, END_S)
        seconds = time.monotonic() - sent_s
        code = launched.process.poll()
        wait_until(lambda: not launched.processes(), GONE_S)
        left = launched.processes()
        told = launched.told()
        finished = finished_steps(launched.marks)
        if finished - before >= IGNORED_STEPS:
            wrong.append(f"{finished - before} more steps after the notice")
        return Left(
            code=code,
            seconds=seconds,
            finished=max(finished, run.saved_step()),
            processes=len(left),
            told=told,
            wrong=(*wrong, *_faults(trial, code, told, run, launched, left)),
        )


def _let_the_grace_pass(trial: Trial, launched: Started, grace_s: float) -> None:
    """Wait for the end for as long as the grace is; then kill the ranks, if only one was told.

    After a notice to the launcher it is the launcher that kills them then. Who tells a rank alone
    will do the same, and what is not saved by then is lost.
    """
    if wait_until(launched.has_ended, grace_s) or trial.phase in STARTING or trial.target != "rank":
        return
    for pid in (launched.rank(rank) for rank in range(RANKS)):
        with contextlib.suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, signal.SIGKILL)


def _environ(trial: Trial) -> dict[str, str]:
    every_step = trial.phase in ("save in flight", "restart")
    return {
        COMPILE: str(int(trial.compiles)),
        **({"NOTICE_SOAK_SAVE_EVERY": "1 steps"} if every_step else {}),
    }


def _faults(
    trial: Trial, code: int | None, told: str, run: Seen, launched: Started, left: list[int]
) -> list[str]:
    """Return what is wrong with how the run left."""
    wrong = []
    if code not in (DONE, CONTINUE):
        wrong.append("the launcher did not end" if code is None else f"exit code {code}")
    if code == DONE and not run.events("test"):
        wrong.append("exit code 0, and the run had not ended")
    if left:
        wrong.append(f"{len(left)} processes left behind")
    if not told.strip():
        wrong.append("not a word")
    for words in ("Traceback", "exited unexpectedly"):
        if words in told and trial.phase != "restart":
            wrong.append(f'"{words}" in what it said')
    return wrong


def _go_on(trial: Trial, folder: Path, run: Seen) -> list[str]:
    """Start the command again and let it come to its end; return what is wrong."""
    with started(trial.then, folder, run.path, environ=_environ(trial)) as launched:
        wait_until(launched.has_ended, BOUND_S)
        code = launched.process.poll()
        if code == DONE:
            return []
        return [f"started again: exit code {code}: {launched.told()[-600:]}"]


def finished_steps(marks: Path) -> int:
    """Return how many steps all ranks have finished, as far as the script's marks tell.

    Not those before its own failure, which may have been lost by that.
    """
    newest = max((int(path.name.rpartition("-")[2]) for path in marks.glob("steps-*")), default=0)
    if newest == 0 and (marks / FAULT).exists():
        return 0
    ranks = [path.read_text().split() for path in marks.glob(f"steps-*-{newest}")]
    return min((int(steps[-1]) if steps else 0 for steps in ranks), default=0)
