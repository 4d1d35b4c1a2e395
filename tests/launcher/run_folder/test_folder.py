import errno
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path, PurePath

import pytest

from launcher.run_folder.folder import RunFolder
from launcher.run_folder.lock import FolderUnavailableError


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


@pytest.mark.parametrize("name", ["checkpoints", "best"])
def test_a_place_for_checkpoints_that_cannot_be_written_is_refused(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).symlink_to("gone/away")  # to a disk that is not mounted
    with pytest.raises(ValueError, match=f"cannot save checkpoints in {tmp_path / name}"):
        RunFolder(tmp_path).create()
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    RunFolder(tmp_path).create()
    assert list((tmp_path / name).iterdir()) == []


@pytest.mark.parametrize(
    ("disk", "sentence"),
    [
        (None, "the run folder .* cannot be written: No space left .* another with --run-dir"),
        ("/dev/shm", "cannot save checkpoints in .*/checkpoints: .*No space left"),
    ],
    ids=["here", "on another disk"],
)
def test_a_full_place_for_checkpoints_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: str | None, sentence: str
) -> None:
    if disk is None:
        (tmp_path / "checkpoints").mkdir()
    else:
        (tmp_path / "checkpoints").symlink_to(disk)
    folder = RunFolder(tmp_path)

    def full(path: PurePath) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(folder.checkpoints.files, "mkdir", full)
    with pytest.raises(FolderUnavailableError, match=sentence) as refused:
        folder.create()
    assert refused.value.may_pass


def test_a_disk_that_is_unmounted_under_the_folder_is_told(tmp_path: Path) -> None:
    disk, told = tmp_path / "disk", list[str]()
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        folder = RunFolder(disk / "run")
        folder.warn = told.append
        folder.create()
        folder.event("start", attempt=1)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    folder.event("saved", step=1, size_bytes=1, seconds=1.0)
    assert len(told) == 1
    assert "created again, on another file system than before. Was a disk unmounted?" in told[0]


def test_a_folder_that_is_removed_is_told(tmp_path: Path) -> None:
    folder, told = RunFolder(tmp_path / "run"), list[str]()
    folder.warn = told.append
    folder.create()
    folder.event("start", attempt=1)
    shutil.rmtree(folder.path)
    folder.event("saved", step=1, size_bytes=1, seconds=1.0)
    assert told == [f"{folder.path} was removed during the run; it is created again."]
