"""A notice at any moment of a run: it leaves with 75, no finished step is lost, the curve goes on.

What is slow is so in the first start only, and the numbers of the undisturbed run hold.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.proc_files import proc_bytes

pytestmark = pytest.mark.timeout(240)

WORKER = str(Path(__file__).parents[1] / "workers" / "noticed.py")
TWO = ("--nproc-per-node", "2", "--run-dir", "run")


class Trial:
    """One run that is disturbed once, and its continuation."""

    def __init__(self, launch: Any, run: Any, *words: str, strategy: str = "ddp") -> None:
        self.launch, self.run = launch, run
        self.words, self.strategy = words, strategy
        self.folder: Path = launch.folder

    def start(self, *options: str) -> Any:
        return self.launch(*TWO, "--strategy", self.strategy, *options, WORKER, *self.words)

    def disturb(
        self, phase: str, *options: str, whom: str = "launcher", after_s: float = 0.0
    ) -> Any:
        launched = self.start(*options)
        launched.wait_for_files(f"began-{phase}", cwd=self.folder)
        time.sleep(after_s)
        if whom == "launcher":
            launched.send(signal.SIGTERM)
        elif whom == "rank":
            os.kill(rank_pid(launched, 1), signal.SIGTERM)
        else:
            for signum in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) * 2:
                for pid in launched.processes_and_guardian():
                    kill(pid, signum)
        assert launched.wait() == 75, launched.stdout + launched.stderr
        (self.folder / "over").touch()
        return launched

    def go_on(self, undisturbed: Path) -> None:
        launched = self.start()
        assert launched.wait() == 0, launched.stdout + launched.stderr
        mine = load_file(self.run.path / "export" / "model.safetensors")
        theirs = load_file(undisturbed / "run" / "export" / "model.safetensors")
        for name, tensor in theirs.items():
            assert float((mine[name] - tensor).abs().max()) < 1e-6, name
        assert evaluations(self.run.path) == evaluations(undisturbed / "run")


def rank_pid(launched: Any, rank: int) -> int:
    for pid in launched.processes():
        environ = proc_bytes(pid, "environ").split(b"\0")
        comm = proc_bytes(pid, "comm")
        if comm == f"rank {rank}\n".encode() or f"RANK={rank}".encode() in environ:
            return int(pid)
    raise AssertionError(f"no rank {rank}")


def kill(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


def evaluations(run: Path) -> list[tuple[int, float]]:
    """Every record's step, and what was measured there: none twice, none missing."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(r["step"], round(r.get("val/loss", 0.0), 5)) for r in records]


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, python: Any) -> Path:
    """The folder of an undisturbed run on two ranks."""
    folder: Path = tmp_path_factory.mktemp("plain")
    (folder / "over").touch()
    command = "from launcher.cli import main; main()"
    done = python("-c", command, *TWO, "--strategy", "ddp", WORKER, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.quick_cases("ddp-launcher-0", "fsdp-rank-2")
@pytest.mark.parametrize(
    ("strategy", "whom", "workers"),
    [
        ("ddp", "launcher", "0"),
        ("fsdp", "rank", "2"),
        ("zero2", "tree", "2"),
        pytest.param("zero3", "rank", "0", marks=pytest.mark.slow),
    ],
)
def test_an_evaluation_is_broken_off_by_all_and_done_again(
    launch: Any, run: Any, plain: Path, strategy: str, whom: str, workers: str
) -> None:
    words = ("--slow", "evaluation", "--seconds", "0.3", "--workers", workers)
    trial = Trial(launch, run, *words, strategy=strategy)
    launched = trial.disturb("evaluation", "--grace", "60", whom=whom)
    assert "preemption notice in an evaluation, which will be repeated" in launched.stdout
    assert run.steps_on_disk() == [5]
    assert [step for step, _ in evaluations(run.path)] == [1, 2, 3, 4]
    trial.go_on(plain)


def test_an_evaluation_that_was_owed_may_end_the_run(launch: Any, run: Any, tmp_path: Path) -> None:
    words = ("--slow", "evaluation", "--seconds", "0.3", "--patience", "1", "--steps", "30")
    trial = Trial(launch, run, *words)
    trial.disturb("evaluation")
    launched = trial.start()
    assert launched.wait() == 0, launched.stderr
    # The first evaluation is the best; the one after it did not improve by as much as is asked.
    assert "early stop" in launched.stdout
    assert [step for step, value in evaluations(run.path) if value] == [5, 10]
    again = trial.start()
    assert again.wait() == 0
    assert "this run had finished already: early stop" in again.stdout


@pytest.mark.quick_cases("zero2-rank")
@pytest.mark.parametrize(
    ("strategy", "whom"),
    [
        ("ddp", "tree"),
        pytest.param("fsdp", "launcher", marks=pytest.mark.slow),
        ("zero2", "rank"),
    ],
)
def test_a_long_step_is_given_up_and_what_its_forward_moved_is_put_back(
    launch: Any, run: Any, plain: Path, strategy: str, whom: str
) -> None:
    trial = Trial(launch, run, "--slow", "step:7", "--seconds", "2", strategy=strategy)
    launched = trial.disturb("step", whom=whom)
    assert run.steps_on_disk() in ([7], [8]), launched.stdout
    trial.go_on(plain)


@pytest.mark.quick_cases("ddp-2")
@pytest.mark.parametrize(
    ("strategy", "workers"),
    [
        ("ddp", "2"),
        pytest.param("zero3", "2", marks=pytest.mark.slow),
        pytest.param("fsdp", "2", marks=pytest.mark.slow),
        ("ddp", "0"),
    ],
)
def test_data_that_does_not_come_keeps_nobody(
    launch: Any, run: Any, plain: Path, strategy: str, workers: str
) -> None:
    # Sample 239 is in step 6; workers read it while the steps before are under way.
    seconds = "30" if workers == "2" else "2"
    words = ("--slow", "data:239", "--seconds", seconds, "--workers", workers)
    trial = Trial(launch, run, *words, strategy=strategy)
    trial.disturb("data", "--grace", "40", after_s=0.1 if workers == "0" else 2.0)
    assert run.steps_on_disk() in ([5], [6], [7])
    trial.go_on(plain)


@pytest.mark.quick_cases("script-warm", "build-cold")
@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
@pytest.mark.parametrize("phase", ["script", "build"])
def test_before_the_first_step_there_is_nothing_to_save(
    launch: Any, run: Any, plain: Path, phase: str
) -> None:
    seconds = "3" if phase == "script" else "60"
    trial = Trial(launch, run, "--slow", phase, "--seconds", seconds)
    launched = trial.disturb(phase)
    assert "before the first step of this start: there was nothing to save" in launched.stderr
    assert run.steps_on_disk() == []
    trial.go_on(plain)


def test_restoring_is_left_at_once_and_the_checkpoint_stays(
    launch: Any, run: Any, plain: Path
) -> None:
    trial = Trial(launch, run, "--slow", "step:5", "--seconds", "2")
    trial.disturb("step")
    (step,) = run.steps_on_disk()
    (trial.folder / "over").unlink()
    trial.words = ("--slow", "restore", "--seconds", "60")
    launched = trial.disturb("restore", whom="rank")
    assert "before the first step of this start: there was nothing to save" in launched.stderr
    assert run.steps_on_disk() == [step]
    trial.go_on(plain)


def test_a_test_is_broken_off_and_done_again(launch: Any, run: Any, plain: Path) -> None:
    trial = Trial(launch, run, "--slow", "test", "--seconds", "0.3")
    launched = trial.disturb("test")
    assert "in job.test, which will be repeated: the training is saved up to step 12" in (
        launched.stdout
    )
    trial.go_on(plain)


def test_the_script_may_look_at_the_notice(launch: Any, run: Any, plain: Path) -> None:
    trial = Trial(launch, run, "--slow", "notice")
    launched = trial.disturb("notice", "--grace", "50")
    assert "the script knows: SIGTERM, False" in launched.stdout
    trial.words = ()
    trial.go_on(plain)


def test_a_grace_below_a_step_and_a_save_is_said_with_both_numbers(launch: Any, run: Any) -> None:
    words = ("--slow", "accumulation", "--seconds", "0.06", "--steps", "9")
    launched = launch(*TWO, "--grace", "0.05", WORKER, *words)
    assert launched.wait() == 0, launched.stderr
    (line,) = [x for x in launched.stderr.splitlines() if "ends it 0.05 s after the notice" in x]
    assert "a save of this run takes" in line or "exiting takes up to a step (0." in line


NO_ROOM = """
import resource
import torch
from torch.utils.data import TensorDataset
from launcher import Run

def main(run):
    x = torch.randn(64, 128)
    job = run.prepare(
        model=lambda: torch.nn.Linear(128, 128),
        optimizer=lambda parameters: torch.optim.Adam(parameters),
        train=TensorDataset(x, x), global_batch=16, micro_batch=8, steps=50, track=[],
        save_every="{EVERY}",
    )
    for step in job:
        for a, b in step:
            step.backward((job.model(a) - b).square().sum(), count=len(a))
        if step.number == 9:
            # Of a file so long the disk has no room: a checkpoint is longer, a record is not.
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
            os.kill(os.getpid(), signal.SIGTERM)

Run.start(main)
"""


@pytest.mark.parametrize(("every", "code"), [("1000 steps", 1), ("5 steps", 75)])
def test_without_room_for_a_checkpoint_it_is_said_what_is_lost(
    launch: Any, run: Any, every: str, code: int
) -> None:
    script = launch.script(NO_ROOM.replace("{EVERY}", every))
    launched = launch("--run-dir", "run", script)
    assert launched.wait() == code, launched.stdout + launched.stderr
    said = launched.stdout + launched.stderr
    assert "could not save at step" in said
    if code == 1:
        assert "no checkpoint could be written: its 1" in said
        assert "The same command starts from step 0" in said
    else:
        assert f"The same command resumes from step {run.steps_on_disk()[0]}." in said
