"""Only what is new is read, whatever happens to the file meanwhile."""

import gc
import json
import os
import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from launcher.run_folder.jsonl import EVENTS, METRICS, append_event, event_of
from launcher.run_folder.lines.appending import append_lines, cut_after, line_of
from launcher.run_folder.lines.fields import is_event, is_metric
from launcher.run_folder.lines.follow import Follower, is_newer_metric


def row(step: int, attempt: int = 1, time: float | None = None) -> dict[str, Any]:
    return {"step": step, "attempt": attempt, "time": float(step) if time is None else time}


def add(path: Path, *rows: dict[str, Any]) -> None:
    append_lines(path, b"".join(line_of(one) for one in rows))


def steps(found: list[dict[str, Any]]) -> list[int]:
    return [one["step"] for one in found]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / METRICS


@pytest.fixture(name="follower")
def _follower(path: Path) -> Follower:
    return Follower(path, is_metric, is_newer_metric)


def test_a_line_that_is_being_written_waits(path: Path, follower: Follower) -> None:
    add(path, row(1))
    with path.open("ab", buffering=0) as file:
        text = json.dumps(row(2)).encode()
        file.write(text[:9])
        assert steps(follower.news()) == [1]
        file.write(text[9:] + b"\n")
    assert steps(follower.news()) == [2]
    assert follower.news() == []
    assert follower.skipped == 0


@pytest.mark.parametrize("clock", [100.0, -100.0])
def test_after_a_resume_what_is_done_again_is_new(
    clock: float, path: Path, follower: Follower
) -> None:
    """Also where the new node's clock is behind, and where as much was written as was cut off."""
    add(path, *(row(n) for n in range(1, 11)))
    assert len(follower.news()) == 10
    cut_after(path, 6)
    add(path, *(row(n, 2, n + clock) for n in range(7, 13)))
    assert steps(follower.news()) == [7, 8, 9, 10, 11, 12]
    add(path, row(13, 2, 13 + clock))
    assert steps(follower.news()) == [13]


def test_a_run_that_goes_back_in_one_attempt(path: Path, follower: Follower) -> None:
    add(path, *(row(n) for n in range(1, 11)))
    follower.news()
    cut_after(path, 6)
    assert follower.news() == []
    add(path, *(row(n, 1, n + 10.0) for n in range(7, 9)))
    assert steps(follower.news()) == [7, 8]


def test_events_of_a_folder_that_is_made_again_are_new(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    follower = Follower(folder / EVENTS, is_event)
    append_event(folder, "start", attempt=3)
    assert len(follower.news()) == 1
    shutil.rmtree(folder)
    assert follower.news() == []
    folder.mkdir()
    append_lines(folder / EVENTS, line_of(event_of("note", sentence="again " * 20)))
    assert [e["event"] for e in follower.news()] == ["note"]


def test_the_latest_are_found_from_the_end(
    path: Path, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.run_folder.lines.reading.BLOCK_BYTES", 50)
    add(path, *(row(n, n // 5) for n in range(20)))
    with path.open("ab", buffering=0) as file:
        file.write(b'{"step": 20, ')
        assert steps(follower.latest(lambda one: one["attempt"] != 3)) == [14, 15, 16, 17, 18, 19]
        file.write(b'"attempt": 4}\n')
    assert steps(follower.news()) == [20]
    assert follower.skipped == 0


def test_of_the_latest_the_wanted_ones_and_the_newest_are_kept(
    path: Path, follower: Follower
) -> None:
    add(path, *({**row(n), **({} if n % 5 else {"val/loss": 0.5})} for n in range(1, 13)))
    found = follower.latest(lambda one: one["step"] == 4, lambda one: "val/loss" in one)
    assert steps(found) == [5, 10, 12]


def test_of_a_long_history_the_wanted_lines_alone_are_looked_at(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(path, *({**row(n), **({} if n % 100 else {"val/loss": 0.5})} for n in range(1000)))
    parsed: list[bytes] = []
    monkeypatch.setattr(
        "launcher.run_folder.lines.reading.parse",
        lambda line: (parsed.append(line), json.loads(line))[1],
    )
    found = Follower(path, is_metric, is_newer_metric, having=(b'"val/loss"',)).news()
    assert steps(found) == list(range(0, 1000, 100))
    assert len(parsed) == 10


def test_a_thousand_attempts_cost_each_what_the_first_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read and done, held and left open does not grow with the run's history."""
    from launcher.run_folder import folder as folder_module
    from launcher.run_folder.attempt_number import next_number, number_in
    from launcher.run_folder.folder import RunFolder
    from launcher.run_folder.lines import reading
    from launcher.run_folder.lock import FolderLock

    monkeypatch.setattr(folder_module, "RECENT_BYTES", 4096)
    count = [0]
    parse = reading.parse

    def counting(line: bytes) -> dict[str, Any] | None:
        count[0] += 1
        return parse(line)

    monkeypatch.setattr(reading, "parse", counting)
    calls = [0]

    def called(frame: object, event: str, argument: object) -> None:
        calls[0] += 1

    gc.collect()  # what other tests have left open would be closed on the way
    costs, num_open = [0] * 1000, [0] * 1000
    num_calls, held_bytes = {}, {}
    for attempt in range(1, 1001):
        count[0] = calls[0] = 0
        if attempt == 700:  # Python's free lists, which count as held, are full by 900
            tracemalloc.start()
        if attempt in (900, 1000):
            gc.collect()
            held_bytes[attempt] = tracemalloc.get_traced_memory()[0]
        if attempt in (500, 1000):
            sys.setprofile(called)
        folder = RunFolder(tmp_path)
        folder.create()
        FolderLock.take(tmp_path, warn=print).require_held()
        assert next_number(tmp_path) == attempt
        folder.recent_events()
        assert folder.forget_metrics_after(attempt * 10).steps == (2 if attempt > 1 else 0)
        folder.event("start", attempt=attempt, step=attempt * 10)
        for step in range(12):
            folder.metrics(row(attempt * 10 + step + 1, attempt))
        assert number_in(tmp_path) == attempt
        append_event(tmp_path, "attempt", attempt=attempt, code=75)
        sys.setprofile(None)
        if calls[0]:
            num_calls[attempt] = calls[0]
        costs[attempt - 1] = count[0]
        num_open[attempt - 1] = len(os.listdir("/proc/self/fd"))
    assert costs[999] == costs[499]
    assert num_open[999] <= num_open[0]
    tracemalloc.stop()
    assert num_calls[1000] < 1.02 * num_calls[500]
    assert held_bytes[1000] - held_bytes[900] < 10_000
