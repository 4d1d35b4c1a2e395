"""`relaunch verify` and `relaunch doctor` on whole runs: mistakes are named, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.contract.own_command import OWN_START

PLANTED = Path(__file__).parents[2] / "planted"
MISTAKES = {
    "augmentation_by_worker": "an augmentation that draws from a generator of its own",
    "drop_last_by_rank": "a data set whose content or order differs by rank",
    "ema_at_save": "weights that were exchanged at the save",
    "file_by_all_ranks": "a file that several ranks write",
    "moved_buffer": "a buffer that the forward updates",
    "order_from_set": "a data set in the order of a set",
    "own_collective": "a collective of",
    "patience_in_global": "a decision to stop that is counted in the script's own variables",
    "per_device_batch": "a per-device batch",
    "random_outside": "random numbers outside the micro-batch",
    "skipped_scheduler": "state in the script's own variables",
    "stop_on_one_rank": "left the training loop in step 2 by break",
    "time_seed": "a seed or a draw that changes with every start",
    "wrapped_model_inside": "not computed through job.model",
}
HARMLESS = "worker_dies_of_sigterm"
"""A mistake from which a run protects itself: loader workers outlive the notice in any case."""
CLEAN = sorted(path.stem for path in PLANTED.glob("clean_*.py"))
OF_TWO = ("--ranks", "1,2", "--strategies", "ddp")


def relaunch(*words: str, cwd: Path) -> tuple[int, str]:
    """Run the command to its end; return its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", OWN_START, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def verify(name: str, *words: str, cwd: Path) -> tuple[int, str]:
    return relaunch("verify", *OF_TWO, *words, str(PLANTED / f"{name}.py"), cwd=cwd)


@pytest.mark.timeout(240)
def test_a_mistake_is_named(tmp_path: Path) -> None:
    code, text = verify("per_device_batch", "--steps", "2", "--no-resume", cwd=tmp_path)
    assert code == 1, text
    assert "a per-device batch: a step has 8 samples as single on 1 rank, and 16 as ddp" in text
    assert "Pass run.prepare the same global_batch" in text


@pytest.mark.timeout(240)
def test_a_script_without_run(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("print('no run')\n")
    code, text = relaunch("verify", "--ranks", "1,2", "plain.py", cwd=tmp_path)
    assert code == 0, text
    assert "plain.py does not use Run" in text
    assert "1 rank(s): 0, 2 rank(s): 0" in text


@pytest.mark.timeout(240)
def test_a_script_that_fails_before_its_run_is_named_with_its_reason(tmp_path: Path) -> None:
    """It has shown nothing of `Run` then, and is no script without it."""
    (tmp_path / "strict.py").write_text(
        "import argparse\n"
        "from launcher import Run\n"
        "argparse.ArgumentParser().parse_args()\n"
        "Run.start(lambda run: None)\n"
    )
    code, text = relaunch("verify", "--ranks", "1", "strict.py", "--lr", "1", cwd=tmp_path)
    assert code == 1, text
    assert "exit code 2: strict.py: error: unrecognized arguments: --lr 1" in text
    assert "does not use Run" not in text


@pytest.mark.timeout(240)
def test_doctor_starts_ranks(tmp_path: Path) -> None:
    words = ("doctor", "--nproc-per-node", "2", "--json", "--save-size", "1MB")
    _, text = relaunch(*words, cwd=tmp_path)
    document = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
    found = {one["name"]: one for one in document["findings"]}
    assert found["all-reduce"]["level"] == "ok", text
    assert "2 ranks with" in found["all-reduce"]["text"]
    assert "rank 0" in found["slowest pair"]["text"]
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_script_that_never_ends(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import time\nwhile True: time.sleep(1)\n")
    words = ("verify", "--timeout", "8", "endless.py")
    code, text = relaunch(*words, cwd=tmp_path)
    assert code == 2, text
    assert "did not end in 8 s; no step of run.prepare's loop was seen" in text
    assert "Pass --timeout S" in text


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_named(name: str, tmp_path: Path) -> None:
    code, text = verify(name, cwd=tmp_path)
    assert MISTAKES[name] in text
    assert code == 1, text


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [*CLEAN, HARMLESS])
def test_no_false_alarm(name: str, tmp_path: Path) -> None:
    code, text = verify(name, cwd=tmp_path)
    assert code == 0, text
    assert "equal up to 1e-06" in text


def test_there_are_fifteen_mistakes_and_eight_clean_scripts() -> None:
    names = {path.stem for path in PLANTED.glob("*.py")}
    assert (len(MISTAKES), len(CLEAN)) == (14, 8)
    assert names == {*MISTAKES, HARMLESS, *CLEAN}
