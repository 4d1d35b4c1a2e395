import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.run_folder.lock import FolderLock, is_held

HOLD = """
import sys, time
from pathlib import Path
from launcher.run_folder.lock import FolderLock
lock = FolderLock.take(Path(sys.argv[1]), warn=print)
print("held", flush=True)
time.sleep(60)
"""
ROOT = Path(__file__).parents[3]


def never(text: str) -> None:
    raise AssertionError(text)


def test_two_processes_cannot_hold_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waited: list[float] = []
        ticks = iter(range(100))
        with pytest.raises(ValueError, match=f"pid {holder.pid} on .*--run-dir"):
            FolderLock.take(
                tmp_path, warn=never, wait_s=3, clock=lambda: next(ticks), sleep=waited.append
            )
        assert waited
        holder.kill()
        holder.wait(timeout=10)
        # A killed holder leaves nothing behind that a person must remove.
        FolderLock.take(tmp_path, warn=never, wait_s=0)


def test_two_runs_in_one_process_may_share_it(tmp_path: Path) -> None:
    first = FolderLock.take(tmp_path, warn=never, wait_s=0)
    assert FolderLock.take(tmp_path, warn=never, wait_s=0) is first


def test_without_locks_it_warns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    said: list[str] = []
    FolderLock.take(tmp_path, warn=said.append)
    assert "without locks" in said[0]


def test_who_asks_whether_a_folder_is_held_takes_nothing(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    FolderLock.take(tmp_path, warn=print)
    assert is_held(tmp_path)  # as another process sees it: by another open file
    os.unlink(tmp_path / ".lock")
    (tmp_path / ".lock").write_text("of a run that has ended")
    assert not is_held(tmp_path)
