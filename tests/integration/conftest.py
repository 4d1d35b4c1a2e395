"""Fixtures that start the real `relaunch` on tiny scripts; a test that leaves a process fails."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WORKERS = Path(__file__).parent / "workers"
TEST_MARK = "LAUNCH_TEST_MARK"


def processes_with(text: str) -> list[int]:
    """Return the living processes with the text in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if text.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.01)


@dataclass
class Launched:
    pid: int
    folder: Path
    mark: str

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def said(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("relaunch: ")]

    def ended(self) -> bool:
        return (self.folder / "status").exists()

    def wait(self, timeout_s: float = 80.0) -> int:
        try:
            wait_until(self.ended, "the launcher's end", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.stdout}\n{self.stderr}") from None
        return int((self.folder / "status").read_text())

    def wait_for_files(self, *names: str, cwd: Path) -> None:
        for name in names:
            wait_until((cwd / name).exists, f"the file {name}; said {self.stderr}")

    def send(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def processes(self) -> list[int]:
        """The ranks and what they started; neither the launcher nor its guardian."""
        return [p for p in self.processes_and_guardian() if not _is_guardian(p)]

    def processes_and_guardian(self) -> list[int]:
        return processes_with(self.mark)


def _is_guardian(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"guardian.py" in command or not command  # what ends has no command any more


def ask(server: "subprocess.Popen[str]", request: dict[str, object]) -> int:
    """Have the server start a launcher; return its process id."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def start(server: "subprocess.Popen[str]", folder: Path, mark: str, **request: Any) -> Launched:
    """Have the server start a launcher, with its output and its exit code in a folder.

    Args:
        server: launch_server.py.
        folder: Where they go.
        mark: What every process of the launcher has in its environment.
        request: What launch_server.py is told, apart from the files.
    """
    folder.mkdir()
    files = {key: str(folder / key) for key in ("stdout", "stderr", "status")}
    launched = Launched(ask(server, {"ignored": (), **files, **request}), folder, mark)
    wait_until((folder / "stderr").exists, "the launcher's start")
    return launched


class Launch:
    """Starts the command: `launch("--nproc-per-node", "2", script)`."""

    def __init__(
        self, server: "subprocess.Popen[str]", folder: Path, options: tuple[str, ...]
    ) -> None:
        self._server = server
        self._options = options
        self.folder = folder
        self.mark = f"{TEST_MARK}={uuid.uuid4().hex}"
        self.started: list[Launched] = []
        # Not below pytest's folder: the name of a Unix socket in it must stay below 108 bytes.
        self.scratch = Path(tempfile.mkdtemp(prefix="relaunch-"))

    def script(self, source: str, name: str = "train.py") -> str:
        """Write a script, which can import what the workers share."""
        prelude = (
            f"import os, pathlib, signal, sys, time; sys.path.append({str(WORKERS)!r})\n"
            "rank = int(os.environ['RANK'])\n"
        )
        (self.folder / name).write_text(prelude + textwrap.dedent(source))
        return name

    def __call__(
        self,
        *argv: str,
        ignored: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        stdout: str | None = None,
        cgroup: Path | None = None,
    ) -> Launched:
        name, _, value = self.mark.partition("=")
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", name: value}
        environ["TMPDIR"] = str(self.scratch)
        launched = start(
            self._server,
            self.folder / f"launch-{len(self.started)}",
            self.mark,
            argv=(*self._options, *argv),
            cwd=str(self.folder),
            environ={**environ, **(env or {})},
            ignored=ignored,
            cgroup=None if cgroup is None else str(cgroup),
            **({} if stdout is None else {"stdout": stdout}),
        )
        self.started.append(launched)
        return launched


@pytest.fixture(scope="session")
def launch_server() -> "Iterator[subprocess.Popen[str]]":
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("launch_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A forked rank's environment is shown in the memory that this one's takes up.
        # One thread each: that is read while torch is imported, which is here for all of them.
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "ROOM": "x" * 16384,
            "OMP_NUM_THREADS": "1",
        },
    )
    yield server
    assert server.stdin is not None
    server.stdin.close()
    server.wait(timeout=60)


@pytest.fixture(scope="session")
def start_launcher(launch_server: "subprocess.Popen[str]") -> Callable[..., Launched]:
    """Start a launcher elsewhere than in the test's folder; see `start`."""
    return functools.partial(start, launch_server)


@pytest.fixture(scope="session")
def processes_of() -> Callable[[str], list[int]]:
    """Return the living processes with a text in their environment."""
    return processes_with


@pytest.fixture
def launch(
    launch_server: "subprocess.Popen[str]", tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Launch]:
    """Start warm ranks, or cold ones: `parametrize("launch", ["warm", "cold"], indirect=True)`."""
    options = ("--cold",) if getattr(request, "param", "warm") == "cold" else ()
    launch = Launch(launch_server, tmp_path, options)
    yield launch
    running = [launched for launched in launch.started if not launched.ended()]
    for launched in running:
        launched.send(signal.SIGKILL)
    end = time.monotonic() + 10.0
    while (left := processes_with(launch.mark)) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(launch.scratch)
    assert not running, "the test left a launcher running"
    assert not left, f"the test left processes: {left}"
