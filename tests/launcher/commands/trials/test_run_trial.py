"""The command and the environment of a trial, and what is read of what it has left."""

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.commands.trials import run_trial as run_trial_module
from launcher.commands.trials.outcome import MicroBatch, outcome_of
from launcher.commands.trials.run_trial import (
    TIMED_OUT,
    StoppedError,
    Trial,
    command_of,
    environ_of,
    run_trial,
    script_of,
    sentences,
)
from launcher.contract.trial import TRIAL, TrialSettings

SLEEP = "import time; time.sleep(60)"


def trial(folder: Path) -> Trial:
    return Trial(
        name="ddp on 2 ranks",
        words=("--precision", "bf16", "train.py", "--lr", "1"),
        ranks=2,
        strategy="ddp",
        folder=folder,
        settings=TrialSettings(steps=4),
        variables={"PYTHONHASHSEED": "0"},
    )


def test_the_command_has_its_own_folder_before_the_script(tmp_path: Path) -> None:
    words = command_of(trial(tmp_path))[3:]
    own = ["--run-dir", str(tmp_path / "run"), "--nproc-per-node", "2", "--strategy", "ddp"]
    assert words == [*own, "--precision", "bf16", "train.py", "--lr", "1"]


def test_the_option_of_a_strategy_is_left_out(tmp_path: Path) -> None:
    words = command_of(replace(trial(tmp_path), names_strategy=False))
    assert "--strategy" not in words


def test_an_argument_may_name_the_run_folder(tmp_path: Path) -> None:
    one = replace(trial(tmp_path), words=("train.py", "--out={run_dir}/trainer", "{other}"))
    assert command_of(one)[-2:] == [f"--out={tmp_path}/run/trainer", "{other}"]


def test_a_trial_inside_of_a_job_is_started_here(tmp_path: Path) -> None:
    inherited = {"RANK": "3", "WORLD_SIZE": "4", "SLURM_JOB_ID": "7", "PET_NNODES": "2", "A": "b"}
    environ = environ_of(trial(tmp_path), inherited)
    assert environ.pop(TRIAL) == TrialSettings(steps=4).text()
    assert environ == {"A": "b", "PYTHONHASHSEED": "0"}


def test_settings_come_back_from_the_environment() -> None:
    settings = TrialSettings(steps=3, save_every_steps=1, trace="/t", notice_at=2)
    assert TrialSettings.of(settings.text()) == settings
    assert TrialSettings.of(None) is None
    assert settings.trace_file(1) == Path("/t/rank-1.jsonl")


def test_what_was_printed_is_found_once(tmp_path: Path) -> None:
    one = trial(tmp_path)
    assert sentences(one, "error") == []
    one.output.write_text("x\n[rank1] relaunch: error: a\nrelaunch: error: a\nrelaunch: error: b\n")
    assert sentences(one, "error") == ["a", "b"]


def test_notes_of_all_ranks_are_one_table(tmp_path: Path) -> None:
    one = trial(tmp_path)
    one.output.write_text("")
    trace = tmp_path / "trace"
    trace.mkdir()
    noted = [
        {"rank": 1, "weights": "w"},
        {"rank": 1, "samples": 9, "first": "f", "again": "g"},
        {"rank": 1, "wrote": "/out"},
        {"rank": 1, "step": 0, "micro_batch": 3, "batch": "b"},
        {"rank": 1, "step": 0, "micro_batch": 3, "loss": 2.0, "count": 4.0},
    ]
    (trace / "rank-1.jsonl").write_text("".join(json.dumps(note) + "\n" for note in noted))
    found = outcome_of(one, 0)
    assert found.micro_batches == {(0, 3): MicroBatch(rank=1, batch="b", loss=2.0, count=4.0)}
    notes = found.notes[1]
    assert (notes.weights, notes.num_samples, notes.wrote) == ("w", 9, ("/out",))
    assert (notes.first, notes.again) == ("f", "g")
    assert found.uses_run
    assert found.steps == ()


@pytest.mark.parametrize(("code", "uses_run"), [(0, False), (2, True)])
def test_a_loop_of_its_own_is_not_observed(code: int, uses_run: bool, tmp_path: Path) -> None:
    one = trial(tmp_path)
    one.output.write_text("")
    one.run_dir.mkdir()
    start = {"time": "2026-01-01T00:00:00+00:00", "event": "start", "attempt": 1, "step": 0}
    start |= {"strategy": "ddp", "world_size": 2, "precision": "fp32", "device": "cpu"}
    (one.run_dir / "events.jsonl").write_text(json.dumps({**start, "resumed": False}) + "\n")
    found = outcome_of(one, code)
    assert found.uses_run is uses_run  # one that failed may not have come to a step


def test_script_of() -> None:
    assert script_of(("--precision", "bf16", "a/train.py", "b.py")) == "a/train.py"
    assert script_of(("-m", "package")) is None


def test_a_signal_ends_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_trial_module, "command_of", lambda one: [sys.executable, "-c", SLEEP])
    with pytest.raises(StoppedError, match=r"SIGTERM: the runs are not finished\.") as raised:
        run_trial(trial(tmp_path), lambda: signal.SIGTERM)
    assert raised.value.exit_code == 143


def test_a_trial_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_trial_module, "command_of", lambda one: [sys.executable, "-c", SLEEP])
    assert run_trial(replace(trial(tmp_path), timeout_s=0.1)) == TIMED_OUT


def test_a_trial_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [sys.executable, "-c", "print('relaunch: error: no'); raise SystemExit(3)"]
    monkeypatch.setattr(run_trial_module, "command_of", lambda one: words)
    assert run_trial(trial(tmp_path)) == 3
    assert sentences(trial(tmp_path), "error") == ["no"]
