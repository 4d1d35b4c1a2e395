"""Where the ranks' output appears."""

import pytest

pytestmark = pytest.mark.timeout(60)

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
def test_files_for_all_but_rank_0(launch, options, logs):
    for attempt in (0, 1):
        launched = launch("--nproc-per-node", "3", *options, launch.script(TALKS))
        assert launched.wait() == 0
        assert launched.stdout == "out 0\n"
        folder = launch.folder / logs / f"attempt-{attempt}"
        assert sorted(path.name for path in folder.iterdir()) == ["rank-1.log", "rank-2.log"]
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
    log = launch.folder / "logs/attempt-0/rank-1.log"
    assert said[0] == f"relaunch: the last lines of rank 1, from {log}:"
    assert "relaunch:   ValueError: boom" in said
    assert "relaunch:   line 99" in said
    assert "relaunch:   line 10" not in said
    assert said[-2].endswith("failed with exit code 1.")


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
