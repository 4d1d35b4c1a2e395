"""Launchers that a server forks: as a Python of its own, where that changes nothing for them."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.commands.rehearse.processes import marked, wait_until
from launcher.commands.trials import warm_launchers
from launcher.commands.trials.run_trial import Trial
from launcher.commands.trials.warm_launchers import is_cold, warm_starts
from launcher.contract.trial import TrialSettings
from launcher.workers.forkserver.messages import Gone

SCRIPT = """
import os, sys, time
print("rank", os.environ["RANK"], "of", os.environ["WARM_TEST"], sys.argv[1:], flush=True)
time.sleep(600 if sys.argv[1:] == ["wait"] else 0)
"""
NAME = "WARM_TEST"


def trial(folder: Path, *words: str, ranks: int = 2, **variables: str) -> Trial:
    return Trial(
        name="t",
        words=words or ("train.py",),
        ranks=ranks,
        strategy="ddp",
        folder=folder,
        settings=TrialSettings(steps=4),
        variables=variables,
    )


@pytest.mark.timeout(900)
def test_a_warm_command_is_as_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_launchers, "_READY_S", 600.0)  # on a busy machine
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    with warm_starts(trial(tmp_path, str(script)), uses_run=False, own=(NAME,)) as start:
        one = trial(tmp_path / "one", str(script), "a b", WARM_TEST="first")
        ended = start(one)
        assert isinstance(ended, warm_launchers.WarmProcess)
        assert ended.wait(240) == 0
        assert "rank 0 of first ['a b']" in one.output.read_text()
        two = trial(tmp_path / "two", str(script), "wait", WARM_TEST="second")
        running = start(two)
        mark = f"{NAME}=second"
        assert wait_until(lambda: two.output.read_text().count("of second"), 240)
        assert {running.pid} < {*marked(mark)}, "ranks and guardian have it in their environment"
        assert running.poll() is None
        os.kill(running.pid, 9)
        assert running.wait(60) == -9
        assert wait_until(lambda: not marked(mark), 60), "its guardian ends the ranks"
        last = start(trial(tmp_path / "three", str(script), "wait", WARM_TEST="third"))
    assert last.wait(10) == -9, "what still runs ends with the server"


class Stub:
    """A server that fails at its second start."""

    def __init__(self, environ: Any, *, uses_run: bool) -> None:
        self.starts = 0
        self.is_closed = False
        SERVERS.append(self)

    def start(self, one: Trial) -> str:
        self.starts += 1
        if self.starts > 1:
            raise Gone("it ended")
        return "warm"

    def close(self) -> None:
        self.is_closed = True


SERVERS: list[Stub] = []


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> list[Stub]:
    SERVERS.clear()
    monkeypatch.setattr(warm_launchers, "_Server", Stub)
    monkeypatch.setattr(warm_launchers, "start_trial", lambda one: "cold")
    return SERVERS


@pytest.mark.parametrize(
    ("one", "how"),
    [
        (trial(Path("x")), "warm"),
        (trial(Path("x"), MARK="m"), "warm"),  # its own, and read by no import
        (trial(Path("x"), ranks=3), "warm"),
        (trial(Path("x"), PYTHONHASHSEED="7"), "cold"),  # read before anything is imported
        (trial(Path("x"), ranks=1), "cold"),  # without OMP_NUM_THREADS=1
        (trial(Path("x"), "--cold", "train.py"), "cold"),
    ],
)
def test_what_an_import_would_see_otherwise_starts_cold(
    one: Trial, how: str, stubs: list[Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with warm_starts(trial(Path("x")), uses_run=True, own=("MARK",)) as start:
        assert str(start(one)) == how
    assert stubs[0].is_closed


def test_starts_take_turns_and_a_lost_server_is_left_out(
    stubs: list[Stub], capfd: pytest.CaptureFixture[str]
) -> None:
    one = trial(Path("x"))
    with warm_starts(one, uses_run=True, num_servers=2) as start:
        assert [str(start(one)) for _ in range(2)] == ["warm", "warm"]
        assert [server.starts for server in stubs] == [1, 1]
        assert [str(start(one)) for _ in range(2)] == ["cold", "cold"]
    assert [server.is_closed for server in stubs] == [True, True]
    assert "no launcher can be forked (it ended): starts take longer" in capfd.readouterr().err


def test_a_cold_rehearsal_has_no_server(stubs: list[Stub]) -> None:
    assert is_cold(("--cold", "train.py"))
    with warm_starts(trial(Path("x"), "--cold", "train.py"), uses_run=True) as start:
        assert str(start(trial(Path("x")))) == "cold"
    assert not stubs


def test_a_wait_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        warm = warm_launchers.WarmProcess(process.pid, None)  # type: ignore[arg-type]
        began = time.monotonic()
        with pytest.raises(subprocess.TimeoutExpired):
            warm.wait(0.05)
        assert time.monotonic() - began < 30
        process.kill()
