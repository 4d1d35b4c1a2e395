import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from launcher.run_folder.folder import RunFolder


def test_a_line_cut_off_by_a_kill_is_no_record(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, now=lambda: datetime(2030, 1, 2, tzinfo=UTC))
    folder.event("start", attempt=1)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "en')
    assert folder.events() == [
        {"time": "2030-01-02T00:00:00.000+00:00", "event": "start", "attempt": 1}
    ]


def test_a_record_after_a_cut_off_line_is_not_lost(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.event("start", attempt=1)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "en')
    folder.event("start", attempt=2)
    assert [event["attempt"] for event in folder.events()] == [1, 2]


def test_steps_that_are_done_again_are_recorded_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in range(1, 6):
        folder.metrics({"step": step, "loss": 1.0 / step})
    folder.forget_metrics_after(3)
    folder.metrics({"step": 4, "loss": 9.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run").create()


def test_making_it_leaves_nothing_behind(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a" / "b").create()
    assert list((tmp_path / "a" / "b").iterdir()) == []
