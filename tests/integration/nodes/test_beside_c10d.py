"""Where torch's own c10d rendezvous fails and ours does not: both side by side, on the same hosts.

One test for each thing that is added to it (docs/architecture.md).
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
PORT = 29611
ADDRESSES = ("10.231.7.1", "10.231.7.2", "10.231.7.3")
WAITS_FOR_A_LOSS = """
pathlib.Path("started").touch()
if os.environ["WORLD_SIZE"] == "3": time.sleep(500)
print("with", rank, os.environ["WORLD_SIZE"])
"""


@dataclass
class Torchrun:
    """A torchrun on one of the hosts."""

    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def said(self) -> str:
        return (self.folder / "output").read_text()


@dataclass
class C10d:
    """Starts torchruns that meet through the c10d store of host 0."""

    hosts: Any
    mark: str
    started: list[Torchrun] = field(default_factory=list)

    def start(self, host: int, *argv: str, nnodes: str) -> Torchrun:
        folder = self.hosts.folder / f"torchrun-{len(self.started)}"
        folder.mkdir()
        meet = (
            *("--rdzv-backend", "c10d", "--rdzv-id", "job"),
            *("--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}"),
            *("--rdzv-conf", f"is_host={int(host == 0)},last_call_timeout=300"),
            *("--local-addr", ADDRESSES[host], "--nnodes", nnodes, "--nproc-per-node", "1"),
        )
        enter = ("ip", "netns", "exec", self.hosts.names[host])
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                (*enter, sys.executable, "-m", "torch.distributed.run", *meet, *argv),
                cwd=folder,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HOSTS_TEST_MARK": self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.started.append(Torchrun(folder, process))
        return self.started[-1]


@pytest.fixture
def c10d(hosts: Any, processes_of: Callable[[str], list[int]]) -> Iterator[C10d]:
    found = C10d(hosts, uuid.uuid4().hex)
    yield found
    end = time.monotonic() + 10.0
    while (left := processes_of(found.mark)) and time.monotonic() < end:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    for one in found.started:
        one.process.wait(timeout=10)


def wait_for(condition: Callable[[], object], what: str, *those: Any) -> None:
    end = time.monotonic() + 450.0
    while not condition():
        assert time.monotonic() < end, (what, [getattr(one, "said", "") for one in those])
        time.sleep(0.05)


def wait_for_ranks(nodes: list[Any]) -> None:
    wait_for(lambda: all((node.folder / "started").exists() for node in nodes), "the ranks", *nodes)


def test_nodes_are_in_the_order_of_their_ranks(hosts: Any, c10d: C10d) -> None:
    """c10d sorts them by address, whatever --node-rank says."""
    script = hosts.script("print('group rank', os.environ['GROUP_RANK'])")
    ranks = {0: "1", 1: "0"}
    theirs = [c10d.start(h, "--node-rank", ranks[h], script, nnodes="2") for h in (0, 1)]
    where = ("--nnodes", "2", "--master-addr", ADDRESSES[1], "--master-port", "29511")
    ours = [hosts.start(h, *where, "--node-rank", ranks[h], script) for h in (0, 1)]
    assert [node.wait(450) for node in ours] == [0, 0], [node.stderr for node in ours]
    assert [one.process.wait(timeout=450) for one in theirs] == [0, 0]
    assert [f"group rank {ranks[h]}" in node.stdout for h, node in enumerate(ours)] == [True, True]
    assert [f"group rank {ranks[h]}" in one.said for h, one in enumerate(theirs)] == [False, False]


def test_the_others_notice_a_lost_node_and_resume(hosts: Any, c10d: C10d) -> None:
    """Under c10d they wait for as long as the ranks do: nobody looks at the other nodes' beats."""
    script = hosts.script(WAITS_FOR_A_LOSS)
    theirs = [c10d.start(h, "--max-restarts", "3", script, nnodes="2:3") for h in range(3)]
    ours = [hosts.static(h, script, nnodes="2:3") for h in range(3)]
    wait_for_ranks([*theirs, *ours])
    hosts.cut(2)
    assert [node.wait(450) for node in ours] == [0, 0, 1], [node.stderr for node in ours]
    assert ours[0].stdout == "with 0 2\n"
    for one in theirs[:2]:
        assert one.process.poll() is None, one.said
        assert "with" not in one.said


def test_the_others_resume_without_the_host_of_the_store(hosts: Any, c10d: C10d) -> None:
    """Under c10d they end with it: a new leader is not elected."""
    script = hosts.script(WAITS_FOR_A_LOSS)
    theirs = [c10d.start(h, "--max-restarts", "3", script, nnodes="1:3") for h in range(3)]
    ours = [hosts.static(h, script, nnodes="1:3") for h in range(3)]
    wait_for_ranks([*theirs, *ours])
    ours[0].send(signal.SIGKILL)
    theirs[0].process.kill()
    assert [node.wait(450) for node in ours[1:]] == [0, 0], [node.stderr for node in ours]
    assert "relaunch: continuing with 2 nodes, led by node 1." in ours[1].said()
    for one in theirs[1:]:
        assert one.process.wait(timeout=450) != 0, one.said
        assert "with" not in one.said.splitlines()


def test_a_stranger_is_no_node(hosts: Any, c10d: C10d) -> None:
    """c10d takes whoever knows the run's id, and runs it as one of the ranks."""
    script = hosts.script("print('ranks', os.environ['WORLD_SIZE'], flush=True)")
    theirs = [c10d.start(h, script, nnodes="2") for h in (0, 2)]
    ours = [
        hosts.static(0, "--rdzv-id", "job", script),
        hosts.static(1, "--rdzv-id", "job", script, env={"RELAUNCH_SECRET": "s" * 32}),
    ]
    assert [one.process.wait(timeout=450) for one in theirs] == [0, 0], [o.said for o in theirs]
    assert ["ranks 2" in one.said for one in theirs] == [True, True]
    wait_for(lambda: any("is dropped" in line for line in ours[0].said()), "the refusal")
    for node in ours:
        node.send(signal.SIGTERM)
    assert [node.wait(450) for node in ours] == [75, 75]
    assert [node.stdout for node in ours] == ["", ""]
