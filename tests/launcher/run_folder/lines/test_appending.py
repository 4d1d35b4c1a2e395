"""What the disk does not take now is written later; the caller never hears of it."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launcher.run_folder.folder import RunFolder
from launcher.run_folder.jsonl import metrics_of
from launcher.run_folder.lines import appending
from launcher.run_folder.lines.appending import LineFile, append_lines, cut_after
from launcher.run_folder.lost_work import LostWork, lost_work


def fill(disk: Path) -> Path:
    """Leave no room on a disk; return the file that takes it."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return path


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_full_disk_is_told_once_and_nothing_is_lost(disk: Path) -> None:
    told: list[str] = []
    file = LineFile(disk / "metrics.jsonl", warn=told.append)
    file.append({"step": 1})
    filler = fill(disk)
    for step in range(2, 300):
        file.append({"step": step, "text": "x" * 90})
    assert len(told) == 1
    assert "No space left on device" in told[0]
    filler.unlink()
    file.append({"step": 300})
    assert steps_in(disk / "metrics.jsonl") == list(range(1, 301))
    assert "is written again, with the lines that were kept." in told[1]


def test_as_much_is_written_as_there_is_room_for(disk: Path) -> None:
    file = LineFile(disk / "metrics.jsonl", warn=lambda sentence: None)
    filler = fill(disk)
    for step in range(1000):
        file.append({"step": step, "text": "x" * 90})
    os.truncate(filler, 8192)
    file.append({"step": 1000})
    some = steps_in(disk / "metrics.jsonl")
    assert 200 < len(some) < 600
    assert some == list(range(len(some)))


def test_lines_that_wait_are_bounded(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appending, "KEPT_BYTES", 1000)
    told: list[str] = []
    file = LineFile(disk / "metrics.jsonl", warn=told.append)
    filler = fill(disk)
    for step in range(1000):
        file.append({"step": step})
    filler.unlink()
    file.append({"step": 1000})
    found = steps_in(disk / "metrics.jsonl")
    assert found == list(range(found[0], 1001))
    assert 50 < len(found) < 100
    assert f"except the oldest {found[0]}" in told[1]


def test_what_waits_at_the_end_is_tried_once_more(disk: Path) -> None:
    told: list[str] = []
    folder = RunFolder(disk)
    folder.warn = told.append
    filler = fill(disk)
    folder.event("end", step=3)
    for step in (1, 2, 3):
        folder.metrics({"step": step})
    folder.close()
    assert [line.partition(" of ")[0] for line in told[2:]] == ["1 line", "3 lines"]
    filler.unlink()
    folder.close()
    assert steps_in(disk / "metrics.jsonl") == [1, 2, 3]
    assert [event["event"] for event in folder.events()] == ["end"]
    folder.close()
    assert len(told) == 6


def test_a_disk_that_is_read_only_for_a_while(disk: Path) -> None:
    told: list[str] = []
    file = LineFile(disk / "metrics.jsonl", warn=told.append)
    file.append({"step": 1})
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    file.append({"step": 2})
    assert file.forget_after(0) == LostWork(steps=0, seconds=0.0)
    file.append({"step": 1, "again": True})
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    file.append({"step": 2, "again": True})
    assert (disk / "metrics.jsonl").read_text().count("again") == 2
    assert steps_in(disk / "metrics.jsonl") == [1, 2]
    assert len(told) == 2


@pytest.mark.parametrize("how", ["append", "close"])
def test_lines_that_have_waited_are_not_written_into_a_folder_that_another_has(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    is_ours = [True]
    path = tmp_path / "metrics.jsonl"
    file = LineFile(path, warn=told.append, is_ours=lambda: is_ours[0])

    def refuse(*args: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(appending, "open_plain", refuse)
        file.append({"step": 1})
        file.append({"step": 2})
    path.write_text('{"step": 7}\n')
    is_ours[0] = False
    if how == "append":
        file.append({"step": 3})
    file.close()
    file.close()
    assert path.read_text() == '{"step": 7}\n'
    assert told[1:] == [f"2 lines of {path} are not written: another run has the folder."]


@pytest.mark.parametrize("number", ["ESTALE", "EROFS", "EDQUOT", "ENOSPC", "EIO", "EACCES"])
def test_whatever_the_disk_says_the_training_does_not_hear_it(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    folder = RunFolder(tmp_path)
    folder.warn = told.append
    folder.create()

    def refuse(*args: Any) -> None:
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    with monkeypatch.context() as patch:
        patch.setattr(appending, "open_plain", refuse)
        folder.event("save failed", step=3, reason="full")
        folder.event("saves keep failing", in_a_row=3)
        folder.metrics({"step": 3})
    assert len(told) == 2  # one for each file
    folder.event("end", step=4)
    assert [e["event"] for e in folder.events()] == ["save failed", "saves keep failing", "end"]


def test_a_folder_that_is_removed_is_made_again(tmp_path: Path) -> None:
    told: list[str] = []
    folder = RunFolder(tmp_path / "run")
    folder.warn = told.append
    folder.create()
    folder.write_run({"checkpoints": "elsewhere"})
    folder.event("start", attempt=1)
    folder.metrics({"step": 1})
    shutil.rmtree(folder.path)
    folder.metrics({"step": 2})
    folder.event("end", step=2)
    assert folder.description() == {"checkpoints": "elsewhere"}
    assert [r["step"] for r in metrics_of(folder.path)] == [2]
    assert len(told) == 1
    assert "was removed" in told[0]


def test_what_was_written_in_part_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    append_lines(path, b"{}\n")

    def half(fd: int, data: bytes) -> None:
        os.write(fd, data[:3])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(appending, "write_all", half)
        with pytest.raises(OSError, match="full"):
            append_lines(path, b'{"event": "end"}\n')
    assert path.read_bytes() == b"{}\n"


def rows(*found: tuple[int, int, float]) -> list[dict[str, Any]]:
    return [dict(zip(("step", "attempt", "time"), row, strict=True)) for row in found]


@pytest.mark.parametrize("step", [0, 1, 2, 5, 6, 9, 10, 12])
@pytest.mark.parametrize("block_bytes", [7, 64, 1 << 16])
def test_what_is_dropped_costs_what_all_records_say(
    step: int, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.run_folder.lines.reading.BLOCK_BYTES", block_bytes)
    path = tmp_path / "metrics.jsonl"
    found = rows(*((n, 1 + n // 6, n * 10.0 + 100 * (n // 6)) for n in range(2, 11)))
    path.write_text("".join(json.dumps(row) + "\n" for row in found) + '{"step": ')
    assert cut_after(path, step) == lost_work(found, step)
    assert steps_in(path) == [n for n in range(2, 11) if n <= step]


def test_nothing_is_read_but_what_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {n}}}\n' for n in range(100_000)))
    parsed: list[bytes] = []
    parse = appending.Lines.record

    def count(lines: Any, line: bytes) -> Any:
        parsed.append(line)
        return parse(lines, line)

    monkeypatch.setattr(appending.Lines, "record", count)
    assert cut_after(path, 99_989).steps == 10
    assert len(parsed) == 11
