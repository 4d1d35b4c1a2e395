"""A node is lost: its launcher is killed, or its cable cut; the others end, or go on without it."""

import json
import signal
import time

import pytest

from launcher.node_link import LOST_S
from launcher.supervision import Bounds

pytestmark = pytest.mark.timeout(150)

STAYS = """
pathlib.Path("started").touch()
time.sleep(200)
"""


def started(*nodes):
    end = time.monotonic() + 60
    while not all((node.folder / "started").exists() for node in nodes):
        assert time.monotonic() < end, [node.stderr for node in nodes]
        time.sleep(0.05)


DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def test_a_loss_is_noticed_and_over_in_time():
    assert LOST_S + Bounds().lost_s < 15


@pytest.mark.parametrize(
    ("killed", "nnodes", "checkpoint", "code"),
    [(0, "1:2", True, 75), (0, "2", False, 1), (1, "2", True, 75)],
)
def test_a_killed_agent_is_noticed(hosts, killed, nnodes, checkpoint, code):
    run_dir = hosts.folder / "run"
    (run_dir / "checkpoints" / ("step-00000007" if checkpoint else "draft")).mkdir(parents=True)
    words = ("--run-dir", str(run_dir), hosts.script(DEAF + STAYS))
    nodes = [hosts.static(host, *words, nnodes=nnodes) for host in (0, 1)]
    started(*nodes)
    nodes[killed].send(signal.SIGKILL)
    other = nodes[1 - killed]
    assert other.wait(60) == code
    (lost,) = [line for line in other.said() if line.endswith("Ending the ranks here.")]
    assert lost.startswith(f"relaunch: node {killed} (")
    assert " is lost" in lost
    then = "it goes on from the newest" if checkpoint else "there is no checkpoint so far."
    where = "" if killed == 0 else " on all nodes"
    assert f"Start the same command again{where}; {then}" in other.said()[-1]
    assert "Traceback" not in other.stderr
    (record,) = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert (record["code"], record["restart"]) == (code, False)
    assert f"node {killed} (" in record["reason"]


def test_a_cut_cable_is_noticed_on_both_sides(hosts):
    nodes = [hosts.static(host, hosts.script(DEAF + STAYS)) for host in (0, 1)]
    started(*nodes)
    hosts.cut()
    assert [node.wait(60) for node in nodes] == [1, 1]
    for node, other in zip(nodes, (1, 0), strict=True):
        assert any(f"node {other} (" in line and "is lost" in line for line in node.said())


def test_fewer_nodes_go_on_where_that_was_allowed(hosts):
    script = hosts.script(
        """
pathlib.Path("started").touch()
if os.environ["WORLD_SIZE"] == "2": time.sleep(100)
print("alone", rank, os.environ["WORLD_SIZE"])
"""
    )
    nodes = [hosts.static(host, script, nnodes="1:2") for host in (0, 1)]
    started(*nodes)
    nodes[1].send(signal.SIGKILL)
    assert nodes[0].wait(60) == 0
    assert nodes[0].stdout == "alone 0 1\n"
    assert "relaunch: going on with 1 nodes." in nodes[0].said()


def test_fewer_nodes_go_on_behind_a_cut_cable(hosts):
    script = hosts.script(
        """
pathlib.Path("started").touch()
if os.environ["WORLD_SIZE"] == "3": time.sleep(100)
print("with", rank, os.environ["WORLD_SIZE"])
"""
    )
    nodes = [hosts.static(host, script, nnodes="2:3") for host in range(3)]
    started(*nodes)
    hosts.cut(2)
    assert [node.wait(60) for node in nodes] == [0, 0, 1], [node.stderr for node in nodes]
    assert nodes[0].stdout == "with 0 2\n"
    assert nodes[1].stdout.endswith("with 1 2\n")
    assert "relaunch: going on with 2 nodes." in nodes[1].said()
    assert "relaunch: node 0 (" in nodes[2].said()[-1]


@pytest.mark.parametrize("how", ["killed", "cut"])
def test_node_0_of_three_is_lost(hosts, how):
    """The nodes meet there, so the run ends even where fewer may go on; the command goes on."""
    run_dir = hosts.folder / "run"
    (run_dir / "checkpoints" / "step-00000007").mkdir(parents=True)
    words = ("--run-dir", str(run_dir), hosts.script(DEAF + STAYS))
    nodes = [hosts.static(host, *words, nnodes="1:3") for host in range(3)]
    started(*nodes)
    if how == "killed":
        nodes[0].send(signal.SIGKILL)
    else:
        hosts.cut(0)
    began = time.monotonic()
    assert [node.wait(60) for node in nodes[1:]] == [75, 75]
    print(f"left {time.monotonic() - began:.1f} s after node 0 was {how}")
    for node in nodes[1:]:
        first, last = node.said()
        assert first.startswith("relaunch: node 0 (")
        assert first.endswith(" Ending the ranks here.")
        assert "so the run ends, whatever --nnodes 1:3 allows. Start the same command again" in last
        assert "If node 0 does not come back, let another node be it: --node-rank 0 there" in last
    if how == "cut":
        # It has enough nodes, itself, and goes on.
        assert "relaunch: going on with 1 nodes." in nodes[0].said()
        nodes[0].send(signal.SIGKILL)


def test_the_same_command_goes_on_with_another_node_0(hosts):
    script = hosts.script(STAYS)
    nodes = [hosts.static(host, script, nnodes="2:3") for host in range(3)]
    started(*nodes)
    nodes[0].send(signal.SIGKILL)
    assert [node.wait(60) for node in nodes[1:]] == [1, 1]
    hosts.script("print('on', rank, os.environ['WORLD_SIZE'])")
    where = ("--nnodes", "2", "--master-addr", "10.231.7.2", "--master-port", "29511")
    left = [hosts.start(host, *where, "--node-rank", str(host - 1), script) for host in (1, 2)]
    assert [node.wait(60) for node in left] == [0, 0], [node.stderr for node in left]
    assert left[0].stdout == "on 0 2\n"
