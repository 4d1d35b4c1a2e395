"""Several "hosts" on one machine: network namespaces, each with a virtual cable to one switch."""

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
NUM_HOSTS = 3
ADDRESSES = tuple(f"10.231.7.{host}" for host in range(1, NUM_HOSTS + 1))
PORT = "29511"
NETWORK = import_module("scripts.nodes_bench.hosts")
"""The namespaces and cables are those of scripts/bench_nodes."""


@dataclass
class Hosts:
    names: tuple[str, ...]
    """The namespaces."""
    cables: tuple[str, ...]
    folder: Path
    mark: str
    launch: Callable[..., Any]
    started: list[Any] = field(default_factory=list)
    """What conftest.py one folder above calls Launched, one for each node."""
    ip: Callable[..., str] = NETWORK.ip

    def script(self, source: str) -> str:
        prelude = "import os, pathlib, signal, sys, time\nrank = int(os.environ['RANK'])\n"
        path = self.folder / "train.py"
        path.write_text(prelude + source)
        return str(path)

    def start(
        self,
        host: int,
        *argv: str,
        env: dict[str, str | None] | None = None,
        bounds: dict[str, float] | None = None,
    ) -> Any:
        """Start a node's launcher; `bounds` shortens some of its waits (supervision.Bounds)."""
        folder = self.folder / f"node-{len(self.started)}"
        wanted = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "RELAUNCH_SECRET": self.mark,
            "HOSTS_TEST_MARK": self.mark,
            **(env or {}),
        }
        node = self.launch(
            folder,
            self.mark,
            argv=argv,
            cwd=str(folder),
            environ={name: value for name, value in wanted.items() if value is not None},
            network=self.names[host],
            bounds=bounds,
        )
        self.started.append(node)
        return node

    def static(
        self,
        host: int,
        *argv: str,
        nnodes: str = "2",
        env: dict[str, str | None] | None = None,
        bounds: dict[str, float] | None = None,
    ) -> Any:
        where = ("--master-addr", ADDRESSES[0], "--master-port", PORT)
        rank = ("--node-rank", str(host))
        return self.start(host, "--nnodes", nnodes, *rank, *where, *argv, env=env, bounds=bounds)

    def cut(self, host: int = 1) -> None:
        """Pull a host's cable."""
        self.ip("-n", self.names[host], "link", "set", self.cables[host], "down")


@pytest.fixture
def hosts(
    tmp_path: Path,
    start_launcher: Callable[..., Any],
    processes_of: Callable[[str], list[int]],
) -> Iterator[Hosts]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("there is no ip command")
    key = uuid.uuid4().hex[:6]
    letters = "abcdefgh"[:NUM_HOSTS]
    names = tuple(f"rl-{key}-{letter}" for letter in letters)
    cables = tuple(f"rl{key}{letter}" for letter in letters)
    switch = f"rl-{key}-switch"
    found = Hosts(names, cables, tmp_path, uuid.uuid4().hex, start_launcher)
    left: list[int] = []
    try:
        try:
            NETWORK.lay_cables(switch, names, cables, ADDRESSES)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr}")
        yield found
    finally:
        for node in found.started:
            if not node.ended():
                node.send(signal.SIGKILL)
        end = time.monotonic() + 10.0
        while (left := processes_of(found.mark)) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for name in (*names, switch):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    assert not left, f"the test left processes: {left}"
