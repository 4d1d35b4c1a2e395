"""Signals for every process of a run, loader workers included, in the middle of an epoch."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)

SCRIPT = str(Path(__file__).parents[1] / "workers" / "loading_worker.py")
WARNINGS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def send_to_all(launched: Any, signums: list[signal.Signals]) -> None:
    """Signal every process of the run, the launcher and the guardian among them."""
    for signum in signums:
        for pid in launched.processes_and_guardian():
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                continue


def shuffled(seed: int) -> list[signal.Signals]:
    signums = [*WARNINGS] * 2
    random.Random(seed).shuffle(signums)
    return signums


def final_loss(run: Any) -> float:
    return float(run.events("test")[0]["test/loss"])


@pytest.fixture(scope="module")
def undisturbed_loss(tmp_path_factory: pytest.TempPathFactory, python: Callable[..., Any]) -> float:
    """What the run measures at its end when nobody disturbs it, in one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = python(SCRIPT, cwd=folder)
    assert done.returncode == 0, done.stderr
    (events,) = folder.glob("**/events.jsonl")
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return next(float(e["test/loss"]) for e in lines if e["event"] == "test")


@pytest.mark.parametrize(
    ("launch", "seed", "own"),
    [
        ("warm", 1, ""),
        pytest.param("cold", 2, "", marks=pytest.mark.slow),
        pytest.param("warm", 3, "spawn", marks=pytest.mark.slow),
        pytest.param("warm", 4, "fork", marks=pytest.mark.slow),
    ],
    indirect=["launch"],
)
def test_signals_for_everyone_cost_nothing(
    launch: Callable[..., Any], seed: int, own: str, run: Any, undisturbed_loss: float
) -> None:
    arguments = ("--nproc-per-node", "2", "--strategy", "ddp", "--run-dir", str(run.path), SCRIPT)
    options = ("--own", own) if own else ()
    first = launch(*arguments, "--pause", "0.05", *options)
    wait_for_step(run, first, 7)
    # First of all as Slurm does: then the notice is there, and the others come while it is saved.
    send_to_all(first, [signal.SIGTERM, *shuffled(seed)])
    assert first.wait(90) == 75, first.stderr
    until_gone(first)
    assert run.steps_on_disk()

    second = launch(*arguments, *options)
    assert second.wait(120) == 0, second.stderr
    assert final_loss(run) == pytest.approx(undisturbed_loss, rel=1e-4)
    assert run.events("start")[1]["resumed"]


def test_a_worker_that_dies_once_is_replaced(
    launch: Callable[..., Any], run: Any, undisturbed_loss: float
) -> None:
    launched = launch(
        "--nproc-per-node", "2", "--strategy", "ddp", "--run-dir", str(run.path), SCRIPT,
        "--die", "once",
    )  # fmt: skip
    assert launched.wait(120) == 0, launched.stderr
    logs = "".join(path.read_text() for path in run.path.glob("logs/*/rank-*.log"))
    assert logs.count("ended with exit code 7. Its batches are read again") == 1
    assert final_loss(run) == pytest.approx(undisturbed_loss, rel=1e-4)


def test_a_worker_that_always_dies_ends_the_run_with_a_sentence(
    launch: Callable[..., Any], run: Any
) -> None:
    launched = launch(
        "--nproc-per-node", "2", "--max-restarts", "0", "--run-dir", str(run.path), SCRIPT,
        "--die", "always",
    )  # fmt: skip
    assert launched.wait(120) == 1, launched.stderr
    assert "ended with exit code 7, for the second time at the batch of the samples" in (
        launched.stderr
    )
    assert "workers=0" in launched.stderr


def test_workers_that_die_of_the_notice_are_no_failure(
    launch: Callable[..., Any], run: Any, undisturbed_loss: float
) -> None:
    arguments = ("--nproc-per-node", "2", "--strategy", "ddp", "--run-dir", str(run.path), SCRIPT)
    first = launch(*arguments, "--pause", "0.05", "--die", "of the notice")
    wait_for_step(run, first, 7)
    send_to_all(first, [signal.SIGTERM])
    assert first.wait(90) == 75, first.stderr
    until_gone(first)
    end = run.events("end")[-1]
    assert (end["ending"], run.steps_on_disk()[0]) == ("preempted", end["step"])
    assert "Traceback" not in first.stderr

    second = launch(*arguments)
    assert second.wait(120) == 0, second.stderr
    assert final_loss(run) == pytest.approx(undisturbed_loss, rel=1e-4)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_script_that_does_not_use_ours_is_shielded_when_it_is_warm(
    launch: Callable[..., Any], method: str, tmp_path: Path
) -> None:
    (tmp_path / "strategies.py").write_text("raise ImportError('the script has its own')\n")
    script = launch.script(  # type: ignore[attr-defined]
        f"""
        from torch.utils.data import DataLoader

        class Slow:
            def __len__(self): return 40
            def __getitem__(self, index):
                time.sleep(0.02)
                return index

        if __name__ == "__main__":
            told = []
            signal.signal(signal.SIGTERM, lambda *_: told.append(1))
            loader = DataLoader(Slow(), batch_size=2, num_workers=2,
                                multiprocessing_context={method!r}, persistent_workers=True)
            batches = iter(loader)
            seen = next(batches).tolist()
            pathlib.Path(f"reads-{{rank}}").touch()
            while not told:
                time.sleep(0.01)
            for batch in batches:
                seen += batch.tolist()
            assert seen == list(range(40))
            pathlib.Path(f"read-{{rank}}").touch()
            next(iter(loader))
            sys.exit(75)
        """
    )
    launched = launch("--nproc-per-node", "2", script)
    launched.wait_for_files("reads-0", "reads-1", cwd=tmp_path)
    send_to_all(launched, [signal.SIGTERM])
    assert launched.wait(120) == 75, launched.stderr
    assert (tmp_path / "read-0").exists()
    assert (tmp_path / "read-1").exists()
    assert "Error" not in launched.stderr


def wait_for_step(run: Any, launched: Any, step: int) -> None:
    end = time.monotonic() + 120
    while run.last_step() < step:
        assert time.monotonic() < end
        assert not launched.ended(), launched.stderr
        time.sleep(0.02)


def until_gone(launched: Any) -> None:
    end = time.monotonic() + 2
    while left := launched.processes_and_guardian():
        assert time.monotonic() < end, left
        time.sleep(0.02)
