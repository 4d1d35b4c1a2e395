"""Two "hosts" on one machine: network namespaces, joined by a pair of virtual cables."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MAIN = "from launcher.cli import main; main()"
ADDRESSES = ("10.231.7.1", "10.231.7.2")
PORT = "29511"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


@dataclass
class Node:
    process: "subprocess.Popen[bytes]"
    folder: Path
    agent_pid: int = 0

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def said(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("relaunch: ")]

    def wait(self, timeout_s: float = 60.0) -> int:
        try:
            return self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs\n{self.stdout}\n{self.stderr}") from None


@dataclass
class Hosts:
    names: tuple[str, ...]
    cables: tuple[str, ...]
    folder: Path
    mark: str
    started: list[Node] = field(default_factory=list)

    def script(self, source: str) -> str:
        prelude = "import os, pathlib, signal, sys, time\nrank = int(os.environ['RANK'])\n"
        path = self.folder / "train.py"
        path.write_text(prelude + source)
        return str(path)

    def start(self, host: int, *argv: str) -> Node:
        folder = self.folder / f"node-{len(self.started)}"
        folder.mkdir()
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        command = ["ip", "netns", "exec", self.names[host], sys.executable, "-c", MAIN, *argv]
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                env={**environ, "HOSTS_TEST_MARK": self.mark},
                start_new_session=True,
            )
        self.started.append(Node(process, folder))
        return self.started[-1]

    def static(self, host: int, *argv: str, nnodes: str = "2") -> Node:
        where = ("--master-addr", ADDRESSES[0], "--master-port", PORT)
        return self.start(host, "--nnodes", nnodes, "--node-rank", str(host), *where, *argv)

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
def hosts(tmp_path: Path) -> Iterator[Hosts]:
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
    found = Hosts(names, cables, tmp_path, uuid.uuid4().hex)
    try:
        yield found
    finally:
        for node in found.started:
            if node.process.poll() is None:
                node.process.kill()
                node.process.wait()
        end = time.monotonic() + 4.0
        while (left := found.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    assert not left, f"the test left processes: {left}"
