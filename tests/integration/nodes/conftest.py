"""Two "hosts" on one machine: network namespaces, joined by a pair of virtual cables."""

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ADDRESSES = ("10.231.7.1", "10.231.7.2")
PORT = "29511"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=60)


@dataclass
class Node:
    pid: int
    folder: Path

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

    def send(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def wait(self, timeout_s: float = 60.0) -> int:
        end = time.monotonic() + timeout_s
        while not self.ended():
            assert time.monotonic() < end, f"still runs\n{self.stdout}\n{self.stderr}"
            time.sleep(0.02)
        return int((self.folder / "status").read_text())


@dataclass
class Hosts:
    names: tuple[str, ...]
    cables: tuple[str, ...]
    folder: Path
    mark: str
    launch: Callable[[dict[str, object]], int]
    started: list[Node] = field(default_factory=list)

    def script(self, source: str) -> str:
        prelude = "import os, pathlib, signal, sys, time\nrank = int(os.environ['RANK'])\n"
        path = self.folder / "train.py"
        path.write_text(prelude + source)
        return str(path)

    def start(self, host: int, *argv: str, env: dict[str, str | None] | None = None) -> Node:
        folder = self.folder / f"node-{len(self.started)}"
        folder.mkdir()
        wanted = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "RELAUNCH_SECRET": self.mark,
            "HOSTS_TEST_MARK": self.mark,
            **(env or {}),
        }
        request: dict[str, object] = {
            "argv": argv,
            "cwd": str(folder),
            "environ": {name: value for name, value in wanted.items() if value is not None},
            "ignored": (),
            "network": self.names[host],
            **{key: str(folder / key) for key in ("stdout", "stderr", "status")},
        }
        for key in ("stdout", "stderr"):
            (folder / key).touch()
        self.started.append(Node(self.launch(request), folder))
        return self.started[-1]

    def static(
        self,
        host: int,
        *argv: str,
        nnodes: str = "2",
        env: dict[str, str | None] | None = None,
    ) -> Node:
        where = ("--master-addr", ADDRESSES[0], "--master-port", PORT)
        rank = ("--node-rank", str(host))
        return self.start(host, "--nnodes", nnodes, *rank, *where, *argv, env=env)

    def cut(self) -> None:
        ip("-n", self.names[1], "link", "set", self.cables[1], "down")

    def processes(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if self.mark.encode() in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found


@pytest.fixture
def hosts(tmp_path: Path, start_launcher: Callable[[dict[str, object]], int]) -> Iterator[Hosts]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("there is no ip command")
    key = uuid.uuid4().hex[:6]
    names, cables = (f"rl-{key}-a", f"rl-{key}-b"), (f"rl{key}a", f"rl{key}b")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        pytest.skip(f"no network namespaces here: {error.stderr.decode()}")
    found = Hosts(names, cables, tmp_path, uuid.uuid4().hex, start_launcher)
    try:
        yield found
    finally:
        for node in found.started:
            if not node.ended():
                node.send(signal.SIGKILL)
        end = time.monotonic() + 10.0
        while (left := found.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    assert not left, f"the test left processes: {left}"
