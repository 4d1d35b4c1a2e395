"""Where the ranks' output appears."""

import os
import pathlib
import subprocess

import pytest

pytestmark = pytest.mark.timeout(120)

TALKS = """
print("out", rank)
print("err", rank, file=sys.stderr)
"""


@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
def test_console_with_a_prefix_for_all_but_rank_0(launch):
    launched = launch("--nproc-per-node", "3", launch.script(TALKS))
    assert launched.wait() == 0
    assert sorted(launched.stdout.splitlines()) == ["[rank 1] out 1", "[rank 2] out 2", "out 0"]
    assert sorted(launched.stderr.splitlines()) == ["[rank 1] err 1", "[rank 2] err 2", "err 0"]


@pytest.mark.parametrize(
    ("options", "logs"), [(("--log-dir", "here"), "here"), (("--run-dir", "run"), "run/logs")]
)
def test_rank_0_on_the_console_and_files_for_all(launch, options, logs):
    for attempt in (1, 2):
        launched = launch("--nproc-per-node", "3", *options, launch.script(TALKS))
        assert launched.wait() == 0
        assert launched.stdout == "out 0\n"
        folder = launch.folder / logs / f"attempt-{attempt}"
        assert sorted(path.name for path in folder.iterdir()) == [
            f"rank-{rank}.log" for rank in (0, 1, 2)
        ]
        assert sorted((folder / "rank-2.log").read_text().splitlines()) == ["err 2", "out 2"]


def test_a_failing_ranks_last_lines_are_shown(launch):
    script = launch.script(
        """
        if rank == 1:
            for number in range(100): print("line", number)
            raise ValueError("boom")
        time.sleep(60)
        """
    )
    launched = launch("--nproc-per-node", "2", "--log-dir", "logs", script)
    assert launched.wait() == 1
    said = launched.said()
    log = launch.folder / "logs/attempt-1/rank-1.log"
    assert said[0] == "relaunch: the last lines of rank 1:"
    assert "relaunch: ValueError: boom" in said
    assert f"relaunch: its whole output: {log}" in said
    assert len([line for line in said if line.startswith("relaunch:   ")]) == 20
    assert "relaunch:   ValueError: boom" in said
    assert "relaunch:   line 99" in said
    assert "relaunch:   line 10" not in said
    assert said[-4].endswith("failed with exit code 1.")


def test_binary_long_and_unfinished_lines_arrive(launch):
    script = launch.script(
        """
        if rank == 1:
            os.write(1, bytes([0, 255, 128]) + b"\\n")
            os.write(1, b"x" * 300_000)
        """
    )
    launched = launch("--nproc-per-node", "2", script)
    assert launched.wait() == 0
    data = (launched.folder / "stdout").read_bytes()
    assert data.startswith(b"[rank 1] \x00\xff\x80\n[rank 1] xxx")
    assert data.endswith(b"x\n")
    assert data.count(b"x") == 300_000


def test_a_console_that_went_away_does_not_stop_the_run(launch):
    script = launch.script(
        """
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        if rank == 1:
            for _ in range(2000): print("y" * 100)
            pathlib.Path("finished").touch()
        """
    )
    launched = launch("--nproc-per-node", "2", script, stdout="/dev/full")
    assert launched.wait() == 0
    assert (launch.folder / "finished").exists()


@pytest.mark.parametrize(
    ("options", "stdout", "stderr"),
    [
        (("-r", "3"), "", ""),
        (("-r", "1"), "", "[rank 1] err 1 err 0"),
        (("--redirects", "1:3"), "out 0", "err 0"),
        (("-t", "3"), "[rank 1] out 1 out 0", "[rank 1] err 1 err 0"),
        (("-t", "3", "--local-ranks-filter", "1"), "out 1", "err 1"),
    ],
)
def test_redirects_and_tee(launch, options, stdout, stderr):
    launched = launch("--nproc", "2", *options, "--log-dir", "logs", launch.script(TALKS))
    assert launched.wait() == 0
    assert " ".join(sorted(launched.stdout.splitlines())) == stdout
    assert " ".join(sorted(launched.stderr.splitlines())) == stderr
    for rank in (0, 1):
        log = launch.folder / f"logs/attempt-1/rank-{rank}.log"
        assert sorted(log.read_text().splitlines()) == [f"err {rank}", f"out {rank}"]


def test_redirects_without_a_folder_say_where_the_logs_are(launch):
    launched = launch("-r", "3", launch.script(TALKS))
    assert launched.wait() == 0
    (line,) = launched.said()
    folder = line.removeprefix("relaunch: the logs are in ").partition(";")[0]
    log = pathlib.Path(folder, "attempt-1", "rank-0.log")
    assert sorted(log.read_text().splitlines()) == ["err 0", "out 0"]


def test_nothing_is_overwritten_by_a_restart(launch):
    script = launch.script(
        """
        from launcher import beat
        beat(1)
        print("restart", os.environ["TORCHELASTIC_RESTART_COUNT"])
        sys.exit(1 if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" else 0)
        """
    )
    launched = launch("--max-restarts", "1", "--log-dir", "logs", script)
    assert launched.wait() == 0
    for attempt in (1, 2):
        log = launch.folder / f"logs/attempt-{attempt}/rank-0.log"
        assert log.read_text() == f"restart {attempt - 1}\n"


@pytest.mark.parametrize("place", ["file/logs", "/proc/logs", "/dev/null/logs"])
def test_a_log_folder_that_cannot_be_written_is_a_warning(launch, place):
    (launch.folder / "file").touch()
    launched = launch("--nproc", "2", "--log-dir", place, launch.script("print('out', rank)"))
    assert launched.wait() == 0
    assert sorted(launched.stdout.splitlines()) == ["[rank 1] out 1", "out 0"]
    (line,) = launched.said()
    assert line.startswith("relaunch: warning: no logs are written: ")


def test_a_full_log_folder_is_a_warning(launch, tiny_disk):
    script = launch.script("print('x' * 100_000)\nprint('end')")
    launched = launch("--log-dir", str(tiny_disk), script)
    assert launched.wait() == 0
    assert launched.stdout.endswith("\nend\n")
    (line,) = launched.said()
    assert line.endswith("cannot be written (No space left on device).")


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here: not root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_stack_of_a_native_crash_is_shown(launch):
    script = launch.script(
        """
        import ctypes
        def crashes(): ctypes.string_at(0)
        if rank == 1: crashes()
        time.sleep(60)
        """
    )
    launched = launch("--nproc", "2", "--log-dir", "logs", script)
    assert launched.wait() == 139
    said = launched.said()
    assert "relaunch: Fatal Python error: Segmentation fault" in said
    assert any("in crashes" in line for line in said)
