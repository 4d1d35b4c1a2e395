"""What happens to three nodes: one case under one launcher, watched through the ranks' records."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodes_bench.hosts import Hosts

RANK = str(Path(__file__).with_name("rank.py"))
PORT = "29711"
LAST_CALL_S = 5
"""For both: the default of 30 s is only waited for."""
LOOK_S = 5
"""--rejoin-every."""
BEGIN_S, WATCH_S = 240.0, 150.0
OURS, THEIRS = "relaunch", "torchrun"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What happens, and how many nodes are to be there then."""

    name: str
    first: Sequence[int]
    """The hosts that are started at first."""
    happens: Callable[[Hosts, Callable[[int], None]], None]
    """Takes what starts a node on a host."""
    then: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it."""

    seconds: float | None
    """From what happened to the first step with the new number of nodes; None: there was none."""
    repeated: int
    """Steps that were done once more."""
    ended: int
    """Launchers that ended by themselves meanwhile."""


def _kill(host: int) -> Callable[[Hosts, Callable[[int], None]], None]:
    return lambda hosts, start: hosts.kill(host)


def _kill_and_return(hosts: Hosts, start: Callable[[int], None]) -> None:
    hosts.kill(2)
    time.sleep(1.0)
    start(2)


SCENARIOS = (
    Scenario(name="a node is killed", first=(0, 1, 2), happens=_kill(2), then=2),
    Scenario(name="node 0 is killed", first=(0, 1, 2), happens=_kill(0), then=2),
    Scenario(
        name="a cable is cut", first=(0, 1, 2), happens=lambda hosts, start: hosts.cut(2), then=2
    ),
    Scenario(name="a node comes late", first=(0, 1), happens=lambda hosts, start: start(2), then=3),
    Scenario(
        name="a node is killed and returns", first=(0, 1, 2), happens=_kill_and_return, then=3
    ),
)


def command(launcher: str, host: int, addresses: Sequence[str], folder: Path) -> list[str]:
    """Return what starts a node; the same ranks under both launchers."""
    conf = f"last_call_timeout={LAST_CALL_S}"
    both = ["--nnodes", "2:3", "--nproc-per-node", "1", "--max-restarts", "9"]
    script = [RANK, str(folder), launcher]
    if launcher == OURS:
        start = [sys.executable, "-c", "from launcher.cli import main; raise SystemExit(main())"]
        meet = ["--node-rank", str(host), "--master-addr", addresses[0], "--master-port", PORT]
        return [*start, *both, *meet, "--rdzv-conf", conf, "--rejoin-every", str(LOOK_S), *script]
    meet = ["--rdzv-backend", "c10d", "--rdzv-id", "bench", "--local-addr", addresses[host]]
    meet += ["--rdzv-endpoint", f"{addresses[0]}:{PORT}"]
    meet += ["--rdzv-conf", f"is_host={int(host == 0)},{conf}"]
    return [sys.executable, "-m", "torch.distributed.run", *both, *meet, *script]


def environment(root: Path) -> Mapping[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PET_")},
        "PYTHONPATH": str(root),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "RELAUNCH_SECRET": "a secret of the benchmark alone",
        # Else a late node ends torchrun: findings/torchrun_late_node_stops_the_run.sh
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


@dataclass(frozen=True, kw_only=True)
class Record:
    """A step, as rank 0 has noted it."""

    at_s: float
    ranks: int
    step: int
    begun_s: float
    """When the youngest of its ranks was started."""


def records(folder: Path) -> list[Record]:
    """Return the steps so far."""
    file = folder / "records"
    lines = file.read_text().splitlines() if file.exists() else []
    words = [line.split() for line in lines if line.count(" ") == 3]
    return [
        Record(at_s=float(at), ranks=int(ranks), step=int(step), begun_s=float(begun))
        for at, ranks, step, begun in words
    ]


def carry_out(scenario: Scenario, launcher: str, hosts: Hosts, folder: Path, root: Path) -> Result:
    """Start the nodes, let it happen, and watch; every process is ended then."""
    folder.mkdir(parents=True)
    environ = environment(root)

    def start(host: int) -> None:
        # relaunch finds it out by itself; torchrun leaves it to gloo, which takes loopback.
        own = {**environ, "GLOO_SOCKET_IFNAME": hosts.network.cables[host]}
        words = command(launcher, host, hosts.network.addresses, folder)
        hosts.start(host, words, folder / f"node-{host}.log", own)

    for host in scenario.first:
        start(host)
    before = len(scenario.first)
    if not _wait(lambda: sum(r.ranks == before for r in records(folder)) > 15, BEGIN_S):
        raise RuntimeError(f"{launcher}, {scenario.name}: the ranks never began; see {folder}")
    began_s, running = time.time(), list(hosts.started)
    scenario.happens(hosts, start)

    def resumed() -> list[Record]:
        new = (r for r in records(folder) if r.ranks == scenario.then and r.begun_s > began_s)
        return list(new)

    _wait(lambda: bool(resumed()), WATCH_S)
    ended = sum(process.poll() is not None for process in running)
    hosts.clear()
    steps, done = [r.step for r in records(folder)], resumed()
    return Result(
        seconds=done[0].at_s - began_s if done else None,
        repeated=len(steps) - len(set(steps)),
        ended=ended,
    )


def _wait(condition: Callable[[], bool], bound_s: float) -> bool:
    end = time.monotonic() + bound_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return condition()
