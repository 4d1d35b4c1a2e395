"""Many agents in one process: how fast they meet, how soon a loss is known, how many requests.

Each agent is a thread with its own connections; no rank is started. So what is measured is the
rendezvous, without the imports and starts of as many launchers.
"""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch.distributed.elastic.rendezvous.api import RendezvousParameters
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

from launcher.contract.launcher_signals import SignalInbox
from launcher.plan.launch_plan import LaunchPlan, make_plan
from launcher.plan.machine import Machine
from launcher.plan.options import LaunchOptions, NodeOptions
from launcher.rendezvous import meeting as meeting_module
from launcher.rendezvous.node_link import HURRY_S, connect_to
from launcher.rendezvous.node_session import NodeSession

STEADY_S = 5.0
BOUND_S = 120.0
REQUESTS = ("set", "get", "multi_get", "check", "compare_set")


class CountingStore:
    """A store that counts its requests."""

    def __init__(self, store: Any, counts: Counter[str]) -> None:
        self._store, self._counts = store, counts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in REQUESTS:
            return found

        def counted(*values: Any) -> Any:
            self._counts[name] += 1
            return found(*values)

        return counted


@dataclass
class Meeting:
    """Agents that have met, or are about to."""

    plan: LaunchPlan
    sessions: dict[int, NodeSession] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _plan(number: int, folder: Path) -> LaunchPlan:
    (folder / "train.py").write_text("")
    nodes = NodeOptions(
        num_min=number,
        num_max=number,
        node_rank=0,
        master_addr="127.0.0.1",
        master_port=free_port(),
    )
    options = LaunchOptions(script=str(folder / "train.py"), nodes=nodes)
    return make_plan(options, Machine(num_gpus=0, num_cpus=1))


def _all_at_once(number: int, do: Callable[[int], None]) -> float:
    """Let each agent do something in a thread of its own; return how long the last one took."""
    ready, failures = threading.Barrier(number + 1), []

    def work(node: int) -> None:
        ready.wait()
        try:
            do(node)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(node,), daemon=True) for node in range(number)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join(BOUND_S)
    took = time.monotonic() - began
    if failures or any(thread.is_alive() for thread in threads):
        raise RuntimeError(f"{number} agents did not meet: {failures or 'no answer'}")
    return took


@contextlib.contextmanager
def our_meeting(number: int, folder: Path) -> Iterator[tuple[Meeting, float]]:
    """Let so many agents of relaunch meet for their first attempt; yield them and the seconds."""
    meeting = Meeting(_plan(number, folder))
    connect = connect_to

    def counting(addr: str, port: int, timeout_s: float) -> Any:
        return CountingStore(connect(addr, port, timeout_s), meeting.counts)

    def meet(node: int) -> None:
        nodes = replace(meeting.plan.nodes, node_rank=node)
        plan = replace(meeting.plan, nodes=nodes)
        session = NodeSession(plan, SignalInbox(), lambda text: None)
        meeting.sessions[node] = session
        session.join()
        session.open_attempt()

    setattr(meeting_module, "connect_to", counting)  # noqa: B010
    try:
        yield meeting, _all_at_once(number, meet)
    finally:
        setattr(meeting_module, "connect_to", connect)  # noqa: B010
        for session in meeting.sessions.values():
            session._link.stop(0.1)


def their_meeting(number: int) -> float:
    """Let so many of torch's c10d rendezvous handlers meet; return the seconds."""
    port = free_port()

    def meet(node: int) -> None:
        parameters = RendezvousParameters(
            backend="c10d",
            endpoint=f"127.0.0.1:{port}",
            run_id="bench",
            min_nodes=number,
            max_nodes=number,
            local_addr="127.0.0.1",
            is_host=str(int(node == 0)),
        )
        backend, store = create_backend(parameters)
        handlers.append(create_handler(store, backend, parameters))
        handlers[-1].next_rendezvous()

    handlers: list[Any] = []
    took = _all_at_once(number, meet)
    for handler in handlers:
        handler.shutdown()
    return took


def requests_per_second(meeting: Meeting) -> float:
    """Return what all agents ask the store while nothing happens."""
    time.sleep(HURRY_S)
    before, began = sum(meeting.counts.values()), time.monotonic()
    _look(meeting, lambda: time.monotonic() - began >= STEADY_S)
    return (sum(meeting.counts.values()) - before) / (time.monotonic() - began)


def seconds_until_known(meeting: Meeting) -> float:
    """Silence the last agent, as a power cut would; return when all others know."""
    last = max(meeting.sessions)
    meeting.sessions[last]._link._stopped.set()
    began = time.monotonic()
    others = [session for node, session in meeting.sessions.items() if node != last]
    known: set[int] = set()

    def all_know() -> bool:
        known.update(id(s) for s in others if s.is_lost(last))
        return len(known) == len(others)

    _look(meeting, all_know)
    return time.monotonic() - began


def _look(meeting: Meeting, is_over: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND_S
    while not is_over():
        if time.monotonic() > end:
            raise RuntimeError(f"not all of {len(meeting.sessions)} agents know of a lost one")
        time.sleep(0.05)
