"""How the ranks end and what the launcher makes of it."""

import socket

import pytest

pytestmark = pytest.mark.timeout(120)

TWO = ("--nproc-per-node", "2")


@pytest.mark.quick_cases(
    "pass-0-warm",
    "sys.exit(42)-42-cold",
    "os._exit(3)-3-warm",
    "sys.exit(75)-75-warm",
    "sys.exit(75)-75-cold",
    "sys.exit(93)-93-warm",
    "sys.exit(2)-2-cold",
    "os.kill(os.getpid(), signal.SIGKILL)-137-warm",
    "os.abort()-134-cold",
    "os.kill(os.getpid(), signal.SIGSEGV)-139-warm",
)
@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
@pytest.mark.parametrize(
    ("rank_1", "code"),
    [
        ("pass", 0),
        ("sys.exit(42)", 42),
        ("os._exit(3)", 3),
        ("sys.exit(75)", 75),
        ("sys.exit(93)", 93),
        ("sys.exit(2)", 2),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("os.abort()", 134),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139),
    ],
)
def test_code_of_the_first_failing_rank(launch, rank_1, code):
    script = launch.script(f"if rank == 1: {rank_1}")
    launched = launch(*TWO, script)
    assert launched.wait() == code
    assert "Traceback" not in launched.stderr


def test_success_says_nothing(launch):
    launched = launch(*TWO, launch.script("print('from', rank)"))
    assert launched.wait() == 0
    assert launched.stderr == ""
    assert sorted(launched.stdout.splitlines()) == ["[rank 1] from 1", "from 0"]


def test_others_are_ended_and_counted(launch):
    script = launch.script(
        """
        if rank == 2: sys.exit(7)
        time.sleep(60)
        """
    )
    launched = launch("--nproc-per-node", "4", script)
    assert launched.wait() == 7
    first, last = launched.said()
    assert first.startswith("relaunch: rank 2 (local rank 2, pid ")
    assert first.endswith(") failed with exit code 7.")
    assert last == "relaunch: 3 other ranks failed as a result."


def test_killed_rank_is_named_with_its_signal(launch):
    script = launch.script("if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)")
    launched = launch(*TWO, script)
    assert launched.wait() == 137
    assert "rank 1 (local rank 1, pid " in launched.stderr
    assert "was killed by SIGKILL" in launched.stderr


def test_a_rank_that_ignores_sigterm_is_killed_in_bounded_time(launch):
    script = launch.script(
        """
        if rank == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            pathlib.Path("deaf").touch()
            time.sleep(300)
        while not pathlib.Path("deaf").exists(): time.sleep(0.01)
        sys.exit(5)
        """
    )
    launched = launch(*TWO, script)
    assert launched.wait(timeout_s=20) == 5


@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
def test_traceback_of_the_script_stays_as_it_is(launch):
    launched = launch(launch.script("raise ValueError('the loss is gone')"))
    assert launched.wait() == 1
    lines = launched.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "ValueError: the loss is gone" in lines
    assert lines[-2].startswith("relaunch: rank 0 (local rank 0, pid ")
    assert lines[-1] == "relaunch: ValueError: the loss is gone"
    assert "runpy" not in launched.stderr


def test_message_of_the_error_file_is_shown(launch):
    script = launch.script(
        """
        import json
        if rank == 1:
            error = {"message": {"message": "RuntimeError: no disk", "extraInfo": {}}}
            pathlib.Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(error))
            sys.exit(1)
        time.sleep(60)
        """
    )
    launched = launch(*TWO, script)
    assert launched.wait() == 1
    assert "relaunch: RuntimeError: no disk" in launched.said()


def test_sentence_of_a_rank_is_printed_once(launch):
    script = launch.script(
        """
        from launcher.contract.environment import RankEnvironment
        from launcher.contract.files.error_file import write_error
        path = RankEnvironment.from_environ(os.environ).error_file
        assert write_error(path, "epochs=0, but it has to be 1 or more.", exit_code=2)
        sys.exit(2)
        """
    )
    launched = launch("--nproc-per-node", "3", "--max-restarts", "2", script)
    assert launched.wait() == 2
    assert launched.stderr == "relaunch: error: epochs=0, but it has to be 1 or more.\n"


def test_a_failure_while_clearing_up_does_not_hide_the_first_one(launch):
    """The rank takes the launcher's own files away before it fails."""
    script = launch.script(
        """
        import shutil
        for path in pathlib.Path(os.environ["TMPDIR"]).iterdir():
            shutil.rmtree(path)
        raise KeyError("the cause")
        """
    )
    launched = launch("--max-restarts", "1", script)
    assert launched.wait() == 1
    assert any("KeyError: 'the cause'" in line for line in launched.said()), launched.stderr
    assert "launcher/" not in launched.stderr


def test_ranks_that_leave_after_one_with_75_are_given_time(launch):
    script = launch.script("time.sleep(2 * rank)\nsys.exit(75)")
    launched = launch(*TWO, script)
    assert launched.wait() == 75
    assert launched.stderr == ""


@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
def test_restart_until_it_works(launch):
    script = launch.script(
        """
        from launcher import beat
        count = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        beat(count)
        counted = pathlib.Path(f"counted-{count}")
        if rank == 0:
            print("attempt", count, os.environ["TORCHELASTIC_MAX_RESTARTS"], flush=True)
            counted.touch()
        while not counted.exists(): time.sleep(0.01)
        if rank == 1 and count < 2: sys.exit(1)
        """
    )
    launched = launch(*TWO, "--max-restarts", "3", script)
    assert launched.wait() == 0
    assert launched.stdout == "attempt 0 3\nattempt 1 3\nattempt 2 3\n"
    assert "relaunch: starting the ranks again: restart 2 of 3." in launched.said()


def test_restart_on_a_given_port(launch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    script = launch.script(
        """
        from launcher import beat
        beat(1)
        print(os.environ["MASTER_PORT"])
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0": sys.exit(1)
        """
    )
    launched = launch("--max-restarts", "1", "--master-port", port, script)
    assert launched.wait() == 0
    assert launched.stdout == f"{port}\n{port}\n"


@pytest.mark.parametrize("code", [2, 75, 93])
def test_no_restart_where_it_cannot_help(launch, code):
    script = launch.script(
        f"from launcher import beat\nbeat(1)\nprint('attempt')\nsys.exit({code})"
    )
    launched = launch("--max-restarts", "3", script)
    assert launched.wait() == code
    assert launched.stdout == "attempt\n"
