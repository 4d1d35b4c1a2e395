"""A job that comes back without getting on does not come back for ever."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.agent.requeue_budget import (
    MOST_WITHOUT_PROGRESS,
    Budget,
    restarts_used,
    saved_step,
    starts_without_progress,
)
from launcher.run_folder.jsonl import FOLDER, append_event
from launcher.schedulers.slurm.requeue_policy import Cause


def start(step: int, job: int = 7) -> dict[str, Any]:
    return {"event": "slurm start", "job": job, "step": step}


def saved(step: int) -> dict[str, Any]:
    return {"event": "saved", "step": step}


def attempt(restart: bool) -> dict[str, Any]:
    return {"event": "attempt", "restart": restart}


@pytest.mark.parametrize(
    ("events", "count"),
    [
        ([], 0),
        ([start(0)], 1),
        ([start(0), start(0), start(0)], 3),
        ([start(0), saved(5), start(5)], 1),
        ([start(0), saved(5), start(5), start(5)], 2),
        ([start(0), start(0), saved(5)], 0),
        ([start(5, job=6), saved(5), start(5)], 1),
        ([start(5), start(5, job=6)], 0),
    ],
)
def test_starts_at_the_same_step_are_counted(events: list[dict[str, Any]], count: int) -> None:
    assert starts_without_progress(events, 7) == count


def test_restarts_after_a_failure_are_counted_over_requeues() -> None:
    events = [start(0, job=6), attempt(True), start(0), attempt(True), attempt(False)]
    assert restarts_used([*events, start(3), attempt(True), attempt(True)], 7) == 3


def test_a_loop_without_progress_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for restart in range(MOST_WITHOUT_PROGRESS):
        budget = Budget(job=7, restart_count=restart, folder=folder)
        assert budget.begin() is None
        refused = budget.refuse(Cause.PREEMPTED)
        assert (refused is None) == (restart < MOST_WITHOUT_PROGRESS - 1)
    assert refused is not None
    assert f"started {MOST_WITHOUT_PROGRESS} times at step 0" in refused
    assert budget.begin() == refused

    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(saved(12)) + "\n" + '{"event": "cut o')
    assert budget.begin() is None
    assert budget.refuse(Cause.PREEMPTED) is None
    lines = (folder / "events.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert (last["event"], last["cause"], last["step"]) == ("requeue", "preempted", 12)


def test_a_run_that_is_kept_elsewhere_gets_on_there(tmp_path: Path) -> None:
    folder, there = tmp_path / "runs" / "train", tmp_path / "chosen"
    there.mkdir()
    for restart in range(2 * MOST_WITHOUT_PROGRESS):
        budget = Budget(job=7, restart_count=restart, folder=folder)
        assert budget.begin() is None
        append_event(there, "saved", step=10 * (restart + 1))
        append_event(there, "attempt", restart=restart == 0)
        append_event(folder, FOLDER, path=str(there))
        assert budget.refuse(Cause.PREEMPTED) is None
    assert budget.restarts_used() == 1
    for restart in range(MOST_WITHOUT_PROGRESS):
        assert Budget(job=7, restart_count=50 + restart, folder=folder).begin() is None
    refused = Budget(job=7, restart_count=60, folder=folder).begin()
    assert refused is not None
    assert f"at step {20 * MOST_WITHOUT_PROGRESS}" in refused


def test_without_a_run_folder_nothing_is_known(tmp_path: Path) -> None:
    budget = Budget(job=7, restart_count=0, folder=None)
    for _ in range(2 * MOST_WITHOUT_PROGRESS):
        assert budget.begin() is None
        assert budget.refuse(Cause.PREEMPTED) is None
    assert list(tmp_path.iterdir()) == []


def test_saved_step() -> None:
    assert saved_step([saved(5), saved(9), start(3)]) == 9
    assert saved_step([]) == 0
