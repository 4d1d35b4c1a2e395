"""Several "hosts" on one machine: network namespaces, each with a virtual cable to one switch."""

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from launcher.commands.rehearse.network import NoNetworkError, network_of

ROOT = Path(__file__).parents[3]
NUM_HOSTS = 3
PORT = "29511"


@dataclass
class Hosts:
    network: Any
    """The namespaces and cables, which are those of `relaunch rehearse`."""
    folder: Path
    mark: str
    launch: Callable[..., Any]
    started: list[Any] = field(default_factory=list)
    """What conftest.py one folder above calls Launched, one for each node."""

    @property
    def names(self) -> tuple[str, ...]:
        """The namespaces."""
        return tuple(self.network.names)

    @property
    def cables(self) -> tuple[str, ...]:
        return tuple(self.network.cables)

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
        where = ("--master-addr", self.network.addresses[0], "--master-port", PORT)
        rank = ("--node-rank", str(host))
        return self.start(host, "--nnodes", nnodes, *rank, *where, *argv, env=env, bounds=bounds)

    def cut(self, host: int = 1) -> None:
        """Pull a host's cable."""
        self.network.cut(host)


@pytest.fixture
def hosts(
    tmp_path: Path,
    start_launcher: Callable[..., Any],
    processes_of: Callable[[str], list[int]],
) -> Iterator[Hosts]:
    left: list[int] = []
    with ExitStack() as until:
        try:
            network = until.enter_context(network_of(NUM_HOSTS))
        except NoNetworkError as error:
            pytest.skip(f"no network namespaces here: {error}")
        found = Hosts(network, tmp_path, uuid.uuid4().hex, start_launcher)
        try:
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
    assert not left, f"the test left processes: {left}"
