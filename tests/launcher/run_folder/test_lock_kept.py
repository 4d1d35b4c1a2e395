"""A lock that its process cannot lose unawares, and what a start does beside one."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launcher.run_folder import lock as lock_module
from launcher.run_folder.lock import (
    FolderLock,
    FolderTakenError,
    FolderUnavailableError,
    Owner,
    may_be_gone,
)

ROOT = Path(__file__).parents[3]
TRY = """
import sys
from pathlib import Path
from launcher.run_folder.lock import FolderLock
try:
    FolderLock.take(Path(sys.argv[1]), warn=print, wait_s=0, lease_s=0)
except ValueError:
    sys.exit("busy")
print("held", flush=True)
sys.stdin.read()
"""


def never(text: str) -> None:
    raise AssertionError(text)


def is_free(folder: Path) -> bool:
    """Whether another process can have the lock now."""
    done = subprocess.run(
        [sys.executable, "-c", TRY, str(folder)], cwd=ROOT, input="", text=True, capture_output=True
    )
    assert done.stdout.endswith("held\n") or "busy" in done.stderr, done.stderr
    return done.returncode == 0


@contextmanager
def holder(folder: Path, *before: str, first: str = "") -> Iterator[int]:
    """Another process that has the lock; its number."""
    with subprocess.Popen(
        [*before, sys.executable, "-c", first + TRY, str(folder)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.kill()


def test_a_copy_of_the_folder_does_not_end_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FolderLock.take(folder, warn=never)
    shutil.copytree(folder, tmp_path / "backup")
    with (folder / ".lock").open("rb") as file:  # a tracker's upload
        file.read()
    assert not is_free(folder)
    lock.require_held()


def test_a_child_does_not_keep_it(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys, time
from pathlib import Path
from launcher.run_folder.lock import FolderLock
lock = FolderLock.take(Path({str(tmp_path)!r}), warn=print)
if os.fork() == 0:
    time.sleep(60)
print("held", flush=True)
os._exit(0)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.wait(30)
    try:
        FolderLock.take(tmp_path, warn=never, wait_s=20, lease_s=20)
    finally:
        os.killpg(process.pid, 9)
        process.stdout.close()


def test_a_lock_that_another_has_by_now_ends_the_run(tmp_path: Path) -> None:
    lock = FolderLock.take(tmp_path, warn=never)
    fcntl.fcntl(lock._fd, fcntl.F_OFD_SETLK, lock_module._WHOLE_FILE.replace(b"\x01", b"\x02", 1))
    with (
        holder(tmp_path) as pid,
        pytest.raises(FolderTakenError, match=f"another run has taken .*pid {pid} on .*--run-dir"),
    ):
        lock.require_held()


def test_a_lock_that_a_server_has_revoked_is_taken_again(tmp_path: Path) -> None:
    lock = FolderLock.take(tmp_path, warn=never)
    fcntl.fcntl(lock._fd, fcntl.F_OFD_SETLK, lock_module._WHOLE_FILE.replace(b"\x01", b"\x02", 1))
    lock.require_held()
    assert not is_free(tmp_path)


def test_without_locks_the_word_in_the_file_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "lock_file", lambda fd: None)
    lock = FolderLock.take(tmp_path, warn=lambda sentence: None)
    lock.require_held()
    (tmp_path / ".lock").write_text("")  # said nothing yet
    lock.require_held()
    (tmp_path / ".lock").write_text('{"host": "other", "pid": 7, "word": "another"}')
    with pytest.raises(FolderTakenError, match="pid 7 on other"):
        lock.require_held()


def test_a_folder_that_is_made_again_is_locked_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FolderLock.take(folder, warn=never)
    shutil.rmtree(folder)
    lock.require_held()  # the save, which needs the folder, will make it
    folder.mkdir()
    lock.require_held()
    assert not is_free(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with holder(folder), pytest.raises(FolderTakenError):
        lock.require_held()


def test_a_script_that_closes_every_descriptor(tmp_path: Path) -> None:
    lock = FolderLock.take(tmp_path, warn=never)
    for reused in (False, True):
        os.close(lock._fd)
        if reused:
            assert os.open(os.devnull, os.O_RDONLY) == lock._fd
        lock.require_held()
        assert not is_free(tmp_path)
    os.close(lock._fd)
    with holder(tmp_path), pytest.raises(FolderTakenError):
        lock.require_held()


@pytest.mark.parametrize("has_another", [False, True])
def test_a_descriptor_that_a_server_answers_no_more(
    has_another: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FolderLock.take(tmp_path, warn=never)
    ill, real = lock._fd, lock_module.lock_file

    def answer(fd: int) -> bool | None:
        if fd == ill:
            raise OSError(5, "Input/output error")
        return real(fd)

    monkeypatch.setattr(lock_module, "lock_file", answer)
    lock.require_held()  # the former descriptor holds it still
    assert not is_free(tmp_path)
    os.close(ill)
    os.dup2(os.open(os.devnull, os.O_RDONLY), ill)
    if has_another:
        with holder(tmp_path), pytest.raises(FolderTakenError):
            lock.require_held()
    else:
        lock.require_held()
        assert not is_free(tmp_path)


def test_a_full_disk_does_not_keep_a_start_from_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock_module, "write_all", full)
    FolderLock.take(tmp_path, warn=never).require_held()
    assert not is_free(tmp_path)


HERE = socket.gethostname()


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        (b"", False),
        (b"\xff", False),
        (b"[]", False),
        (b'{"host": 1, "pid": 2}', False),
        (json.dumps({"host": HERE, "pid": 5}).encode(), False),
        (json.dumps({"host": HERE, "pid": 6}).encode(), True),
        (b'{"host": "deadnode", "pid": 5, "word": "x"}', True),
    ],
)
def test_a_holder_that_may_be_gone(text: bytes, gone: bool) -> None:
    assert may_be_gone(Owner.parse(text), HERE, lambda pid: pid == 5) == gone


def test_the_lock_of_a_lost_node_is_waited_for_as_long_as_a_lease(tmp_path: Path) -> None:
    told: list[str] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += 1.0

    with holder(tmp_path):
        (tmp_path / ".lock").write_text('{"host": "deadnode", "pid": 1}')
        with pytest.raises(FolderUnavailableError, match="pid 1 on deadnode") as error:
            FolderLock.take(tmp_path, warn=told.append, clock=lambda: now[0], sleep=sleep)
    assert error.value.may_pass
    assert now[0] == 120.0
    assert [line.rpartition("up to ")[2] for line in told] == [
        f"{left} s more." for left in (90, 60, 30)
    ]


def test_a_run_on_another_host(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--uts", "true"], capture_output=True).returncode:
        pytest.skip("a host of another name cannot be had here")
    name = "import socket; socket.sethostname('othernode')"
    told: list[str] = []
    with holder(tmp_path, "unshare", "--uts", first=name) as pid:
        now = iter(range(1000))
        with pytest.raises(FolderUnavailableError, match=f"pid {pid} on othernode") as error:
            FolderLock.take(
                tmp_path, warn=told.append, clock=lambda: next(now), sleep=lambda seconds: None
            )
    assert error.value.may_pass
    assert len(told) == 3
    FolderLock.take(tmp_path, warn=never, wait_s=20)


def test_a_lost_node_whose_lock_goes_in_time(tmp_path: Path) -> None:
    with holder(tmp_path) as pid:
        (tmp_path / ".lock").write_text('{"host": "deadnode", "pid": 1}')
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 1:
                os.kill(pid, 9)

        ticks = iter(range(10**6))
        real = lock_module.time.sleep
        FolderLock.take(
            tmp_path,
            warn=never,
            clock=lambda: next(ticks) * 1e-3,
            sleep=lambda s: (sleep(s), real(0.02))[0],
        ).require_held()
    assert waited


@pytest.mark.parametrize("name", [".lock", "run.json", "events.jsonl", "metrics.jsonl"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_planted_file_is_refused_and_what_it_points_to_is_left_alone(
    name: str, kind: str, tmp_path: Path
) -> None:
    from launcher.run_folder.folder import RunFolder

    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted = tmp_path / "run" / name
    planted.parent.mkdir()
    {
        "link": lambda: planted.symlink_to(victim),
        "pipe": lambda: os.mkfifo(planted),
        "folder": planted.mkdir,
    }[kind]()
    folder = RunFolder(planted.parent)
    with pytest.raises(ValueError, match=f"{name} cannot be written: it is .*; remove it"):
        folder.create()
    if name == ".lock":
        with pytest.raises(OSError, match=r"(?i)link|regular|directory"):
            FolderLock.take(folder.path, warn=never)
    assert victim.read_text() == "precious"


def test_a_planted_draft_or_probe_is_not_followed(tmp_path: Path) -> None:
    from launcher.agent.output.log_folder import LogFolder
    from launcher.run_folder.folder import RunFolder
    from launcher.run_folder.plain_files import replace_text
    from launcher.training.reporting.tracker_resume import run_id
    from launcher.training.saving.model_config import write_config

    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for name in ("run.json", "run_id"):
        (folder.path / f".{name}.draft").symlink_to(victim)
    folder.create()
    folder.write_run({"seed": 1})
    assert len(run_id(folder.path)) == 16
    (folder.path / "report.md").symlink_to(victim)
    replace_text(folder.path / "report.md", "text")
    assert victim.read_text() == "precious"
    assert not (folder.path / "report.md").is_symlink()
    assert folder.description() == {"seed": 1}
    (folder.path / ".config.json.draft").symlink_to(victim)
    write_config({"hidden_size": 8}, folder.path)
    log = LogFolder(folder.path, 1, warn=lambda sentence: None)
    log.rank_log(0).symlink_to(victim)
    log.append(log.rank_log(0), b"a line of a rank")
    assert victim.read_text() == "precious"
    (folder.path / f".writable-{os.getpid()}").symlink_to(victim)
    with pytest.raises(ValueError, match="cannot be written"):
        folder.create()
    assert victim.read_text() == "precious"
