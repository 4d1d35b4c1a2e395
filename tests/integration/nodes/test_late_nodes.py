"""A node that comes when the run is under way, or comes back, takes part from a next step on."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.timeout(240)

SCRIPT = """
import torch
from torch.utils.data import TensorDataset
from launcher import Run

STEPS, STEP_S = int(sys.argv[1]), float(os.environ.get("STEP_S", "0.2"))
SLOW = os.environ.get("SLOW", "0")
inputs = torch.randn(96, 4, generator=torch.Generator().manual_seed(1))
data = TensorDataset(inputs, (inputs.sum(1) > 0).long())

def main(run):
    job = run.prepare(
        model=lambda: torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)
        ),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
        train=data,
        global_batch=12,
        micro_batch=2,
        steps=STEPS,
        save_every="1000 steps",
        log_every=1,
    )
    for step in job:
        for x, y in step:
            loss = torch.nn.functional.cross_entropy(job.model(x), y, reduction="sum")
            step.backward(loss, count=len(y))
        if os.environ["TORCHELASTIC_RESTART_COUNT"] in SLOW:  # later nobody is to come in time
            time.sleep(STEP_S)
    job.export("last")

Run.start(main)
"""


class Nodes:
    """Starts nodes of one run that may have one to three of them."""

    def __init__(self, hosts: Any) -> None:
        self.hosts, self.run = hosts, Path(hosts.folder / "run")
        self.script = hosts.script(SCRIPT)
        self.started: list[Any] = []

    def start(self, host: int, *words: str, steps: int, nnodes: str = "1:3", **more: Any) -> Any:
        options = ("--run-dir", str(self.run), "--strategy", "ddp", "--rejoin-every", "0.5")
        conf = ("--rdzv-conf", "last_call_timeout=1")
        script = (self.script, str(steps))
        node = self.hosts.static(host, *options, *conf, *words, *script, nnodes=nnodes, **more)
        self.started.append(node)
        return node

    def steps(self) -> list[int]:
        file = self.run / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line)["step"] for line in lines]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 100
        while not condition():
            told = [node.stderr for node in self.started]
            assert not any(node.ended() for node in self.started), told
            assert time.monotonic() < end, told
            time.sleep(0.02)

    def starts(self) -> list[tuple[int, int]]:
        """Return step and number of ranks of each start."""
        lines = (self.run / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [(e["step"], e["world_size"]) for e in events if e["event"] == "start"]


@pytest.fixture
def nodes(hosts: Any) -> Nodes:
    return Nodes(hosts)


def test_a_node_that_comes_late_takes_part(nodes: Nodes) -> None:
    zero = nodes.start(0, steps=150)
    nodes.wait_for(lambda: len(nodes.steps()) > 5)
    one = nodes.start(1, steps=150)
    assert [node.wait(120) for node in (zero, one)] == [0, 0], (zero.stderr, one.stderr)
    assert nodes.steps() == list(range(1, 151)), "no step was lost, and none done twice"
    (first, second) = nodes.starts()
    assert (first[1], second[1]) == (1, 2)
    assert second[0] > 5
    mine = load_file(nodes.run / "export" / "model.safetensors")
    alone = nodes.start(
        0,
        "--run-dir",
        str(nodes.hosts.folder / "alone"),
        steps=150,
        nnodes="1",
        env={"STEP_S": "0"},
    )
    assert alone.wait(60) == 0
    theirs = load_file(nodes.hosts.folder / "alone" / "export" / "model.safetensors")
    for name, tensor in theirs.items():
        assert float((mine[name] - tensor).abs().max()) < 1e-6, name


@pytest.mark.slow
def test_a_node_that_was_lost_comes_back(nodes: Nodes) -> None:
    slow: Any = {"steps": 150, "nnodes": "1:2", "env": {"SLOW": "01"}}
    zero, one = (nodes.start(host, **slow) for host in (0, 1))
    nodes.wait_for(lambda: len(nodes.steps()) > 5)
    one.send(signal.SIGKILL)
    again = nodes.start(1, **slow)
    assert [node.wait(120) for node in (zero, again)] == [0, 0], (zero.stderr, again.stderr)
    assert [ranks for _, ranks in nodes.starts()] == [2, 1, 2]
    assert "continuing with 2 nodes: node 1 (" in zero.stderr


@pytest.mark.slow
def test_a_node_that_would_run_something_else_stays_out(nodes: Nodes) -> None:
    zero = nodes.start(0, steps=150)
    nodes.wait_for(lambda: len(nodes.steps()) > 5)
    one = nodes.start(1, steps=151)
    two = nodes.start(2, "--precision", "bf16", steps=150)
    assert [node.wait(100) for node in (one, two)] == [2, 2], zero.stderr
    for node in (one, two):
        assert "node 0 refuses this node: its script, the modules beside it," in node.said()[-1]
    assert zero.wait(60) == 0
    assert nodes.starts() == [(0, 1)]
    assert "node 1 (" in zero.stderr
    assert ") may not join: its script" in zero.stderr


@pytest.mark.slow
def test_a_node_that_comes_when_the_run_is_nearly_over(nodes: Nodes) -> None:
    zero = nodes.start(0, "--rejoin-every", "100", steps=60)
    nodes.wait_for(lambda: len(nodes.steps()) > 5)
    one = nodes.start(1, "--rejoin-every", "100", steps=60)
    assert [node.wait(100) for node in (zero, one)] == [0, 0], (zero.stderr, one.stderr)
    assert one.said()[-1] == "relaunch: the run ended before this node could join it."
    assert nodes.starts() == [(0, 1)]


@pytest.mark.slow
def test_a_notice_while_the_ranks_leave_for_a_late_node(nodes: Nodes) -> None:
    zero = nodes.start(0, steps=500)
    nodes.wait_for(lambda: len(nodes.steps()) > 5)
    one = nodes.start(1, steps=500)
    nodes.wait_for(lambda: "is to take part" in zero.stderr)
    zero.send(signal.SIGTERM)
    assert [node.wait(60) for node in (zero, one)] == [75, 75], (zero.stderr, one.stderr)
