"""What goes wrong with a run folder, in whole runs: a full disk, a second command, a lost host."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from launcher.run_folder.lock import FolderLock

pytestmark = pytest.mark.timeout(240)

FULL = """
from launcher import Run
from linear_run import prepare, train

disk = pathlib.Path("disk")

def fill():
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass

def main(run):
    job = prepare(run, epochs=6, log_every=1, keep=1)
    for step in job:
        train(job, step)
        if run.ranks.is_coordinator and step.number == 5:
            fill()
        if run.ranks.is_coordinator and step.number == 40:
            (disk / "filler").unlink()

Run.start(main)
"""


@pytest.fixture
def disk(launch) -> Iterator[Path]:
    folder = launch.folder / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_under_the_run_folder_ends_nothing(launch, disk):
    launched = launch("--log-dir", "logs", "--run-dir", "disk/run", launch.script(FULL))
    assert launched.wait(100) == 0, launched.stderr
    records = [json.loads(line) for line in (disk / "run/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(1, 49))
    kinds = [json.loads(line)["event"] for line in (disk / "run/events.jsonl").open()]
    assert kinds[0] == "start"
    assert "save failed" in kinds
    assert "end" in kinds
    assert launched.stderr.count("metrics.jsonl cannot be written (No space left on device)") == 1
    assert "metrics.jsonl is written again, with the lines that were kept." in launched.stderr

    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    again = launch("--log-dir", "logs", "--run-dir", "disk/run", launch.script(FULL))
    assert again.wait(100) == 75, again.stderr
    assert "disk/run cannot be written: No space left on device." in again.stdout
    assert "Later the same command resumes from step 48." in again.stdout
    assert not list((disk / "run").glob(".*draft"))
    assert not list((disk / "run").glob(".relaunch-*"))


OUTAGE = """
import errno, subprocess
from launcher import Run
from launcher.run_folder.lines import appending
from linear_run import prepare, train

open_plain = appending.open_plain

def stale(*args):
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

def mount(*words):
    subprocess.run(words, check=True)

def begin():
    if "stale" in sys.argv:
        appending.open_plain = stale
    else:  # another mount upon it: .lock is open for writing, which forbids to change its own
        mount("mount", "--bind", "disk", "disk")
        mount("mount", "-o", "remount,bind,ro", "disk")

def end():
    if "stale" in sys.argv:
        appending.open_plain = open_plain
    else:
        mount("umount", "-l", "disk")

def main(run):
    job = prepare(run, epochs=3, log_every=1, keep=1)
    for step in job:
        train(job, step)
        if run.ranks.is_coordinator and step.number == 5:
            begin()
        if run.ranks.is_coordinator and step.number == 20 and "for good" not in sys.argv:
            end()

Run.start(main)
"""


@pytest.mark.parametrize(
    ("outage", "reason"), [("read-only", "Read-only file system"), ("stale", "Stale file handle")]
)
def test_a_run_folder_that_cannot_be_written_for_a_while_ends_nothing(launch, disk, outage, reason):
    script = launch.script(OUTAGE)
    launched = launch("--log-dir", "logs", "--run-dir", "disk/run", script, outage)
    assert launched.wait(100) == 0, launched.stderr
    records = [json.loads(line) for line in (disk / "run/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(1, 25))
    kinds = [json.loads(line)["event"] for line in (disk / "run/events.jsonl").open()]
    assert kinds[0] == "start"
    assert "end" in kinds
    assert ("save failed" in kinds) is (outage == "read-only")
    assert launched.stderr.count(f"metrics.jsonl cannot be written ({reason})") == 1
    assert "metrics.jsonl is written again, with the lines that were kept." in launched.stderr


GONE = """
import shutil
from launcher import Run
from linear_run import prepare, train, wait_for_save

def main(run):
    job = prepare(run, epochs=2)
    for step in job:
        train(job, step)
        wait_for_save(job, 4)
        if step.number == 6:
            place = run.folder.path / "checkpoints"
            shutil.rmtree(place)
            place.write_text("no folder")
            os.kill(os.getpid(), signal.SIGTERM)

Run.start(main, run_dir="run")
"""


def test_code_75_is_for_a_run_that_has_a_checkpoint_still(launch):
    launched = launch(launch.script(GONE))
    assert launched.wait(100) == 1, launched.stdout
    assert "steps are lost. The same command starts from step 0" in launched.stderr
    assert "same command resumes" not in launched.stdout


SHARED = """
import shutil
from launcher import Run
from launcher.run_folder.lock import FolderLock
from linear_run import prepare, train, wait_for_save

# So that the tests are short.
FolderLock.take.__func__.__kwdefaults__.update(wait_s=0.5, lease_s=1.0)

def main(run):
    job = prepare(run, epochs=2, log_every=1)
    for step in job:
        train(job, step)
        wait_for_save(job, 4)
        if run.ranks.is_coordinator and step.number == 6:
            shutil.copytree(run.folder.path, "backup")
            pathlib.Path("copied").touch()
            while not pathlib.Path("go").exists():
                time.sleep(0.05)

Run.start(main)
"""


def test_two_commands_in_one_folder(launch):
    command = ("--run-dir", "run", launch.script(SHARED))
    first = launch(*command)
    first.wait_for_files("copied", cwd=launch.folder)
    second = launch(*command)
    assert second.wait(100) == 2, second.stdout
    assert "another run is at work in" in second.stderr
    assert "array" not in second.stderr
    element = launch(*command, env={"SLURM_ARRAY_TASK_ID": "3"})
    assert element.wait(100) == 2, element.stdout
    assert f"need a folder each: --run-dir {launch.folder}/run/$SLURM_ARRAY" in element.stderr
    # Nor do they leave a word there: `relaunch watch` would take it for the end of the run.
    events = (launch.folder / "run" / "events.jsonl").read_text().splitlines()
    assert not any(json.loads(line)["event"] == "attempt" for line in events)
    (launch.folder / "go").touch()
    assert first.wait(100) == 0, first.stderr
    lines = (launch.folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 17))


def test_a_folder_that_another_host_has_taken(launch):
    command = ("--nproc-per-node", "2", "--run-dir", "run", launch.script(SHARED))
    first = launch(*command)
    first.wait_for_files("copied", cwd=launch.folder)
    run = launch.folder / "run"
    (run / ".lock").unlink()  # as a file server forgets it
    lock = FolderLock.take(run, warn=print, wait_s=0)
    (launch.folder / "go").touch()
    assert first.wait(100) == 93, first.stderr
    assert f"another run has taken {run} (pid " in first.stderr
    assert [path.name for path in run.glob("checkpoints/step-*")] == ["step-00000004"]

    (run / ".lock").write_text('{"host": "deadnode", "pid": 1}')
    again = launch(*command)
    assert again.wait(100) == 75, again.stderr
    assert "another run is at work in" in again.stdout
    assert "(pid 1 on deadnode)" in again.stdout
    assert "Later the same command resumes from step 4." in again.stdout
    lock.require_held()
