"""A node is lost: its launcher is killed, or its cable cut; the others end, or go on without it."""

import json
import signal
import time

import pytest

from launcher.agent.attempts.supervision import Bounds
from launcher.rendezvous.node_link import LOST_S

pytestmark = pytest.mark.timeout(150)

STAYS = """
pathlib.Path("started").touch()
time.sleep(200)
"""


def wait_for(condition, nodes):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, [node.stderr for node in nodes]
        time.sleep(0.05)


def started(*nodes):
    wait_for(lambda: all((node.folder / "started").exists() for node in nodes), nodes)


DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def test_a_loss_is_noticed_and_over_in_time():
    assert LOST_S + Bounds().lost_s < 15


@pytest.mark.quick_cases("0-2-True-75")
@pytest.mark.parametrize(
    ("killed", "nnodes", "checkpoint", "code"),
    [(0, "2", True, 75), (0, "2", False, 1), (1, "2", True, 75)],
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
    then = "it resumes from the newest" if checkpoint else "there is no checkpoint so far."
    where = "" if killed == 0 else " on all nodes"
    assert f"Start the same command again{where}; {then}" in other.said()[-1]
    assert "Traceback" not in other.stderr
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    (record,) = [event for event in events if event["event"] != "launched"]
    assert (record["code"], record["restart"]) == (code, False)
    assert f"node {killed} (" in record["reason"]


def test_a_folder_that_the_script_has_chosen_is_looked_into(hosts):
    """`Run.start(run_dir=...)` says it in this way."""
    run_dir = hosts.folder / "chosen"
    (run_dir / "checkpoints" / "step-00000007").mkdir(parents=True)
    tells = f"""
from launcher.contract.environment import FOLDER_FILE
from launcher.contract.files.run_dir_file import tell_folder
tell_folder(pathlib.Path(os.environ[FOLDER_FILE]), pathlib.Path({str(run_dir)!r}))
"""
    nodes = [hosts.static(host, hosts.script(tells + DEAF + STAYS)) for host in (0, 1)]
    started(*nodes)
    nodes[1].send(signal.SIGKILL)
    assert nodes[0].wait(60) == 75
    assert "it resumes from the newest checkpoint." in nodes[0].said()[-1]


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
    assert "relaunch: continuing with 1 nodes." in nodes[0].said()


@pytest.mark.slow
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
    assert "relaunch: continuing with 2 nodes." in nodes[1].said()
    assert nodes[2].said()[0].startswith("relaunch: node 0 (")
    assert "relaunch: 1 of at least 2 nodes are left. Start the same" in nodes[2].said()[-1]


WITH = """
pathlib.Path("started").touch()
if os.environ["WORLD_SIZE"] == NUM_BEFORE:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(100)
import torch, torch.distributed as dist
dist.init_process_group("gloo")
names = [None] * dist.get_world_size()
dist.all_gather_object(names, (os.environ["GROUP_RANK"], os.environ["MASTER_ADDR"]))
if rank == 0: print(names)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.quick_cases("cut")
@pytest.mark.parametrize("how", ["killed", "cut"])
def test_the_others_go_on_without_node_0(hosts, how):
    run_dir = hosts.folder / "run"
    (run_dir / "checkpoints" / "step-00000007").mkdir(parents=True)
    words = ("--run-dir", str(run_dir), hosts.script(WITH.replace("NUM_BEFORE", "'3'")))
    nodes = [hosts.static(host, *words, nnodes="1:3") for host in range(3)]
    started(*nodes)
    if how == "killed":
        nodes[0].send(signal.SIGKILL)
    else:
        hosts.cut(0)
    assert [node.wait(90) for node in nodes[1:]] == [0, 0], [node.stderr for node in nodes]
    assert nodes[1].stdout.splitlines()[-1] == "[('0', '10.231.7.2'), ('1', '10.231.7.2')]"
    for node in nodes[1:]:
        said = node.said()
        assert said[0].startswith("relaunch: node 0 (")
        assert said[0].endswith(" Ending the ranks here.")
        assert "relaunch: continuing with 2 nodes, led by node 1." in said
    if how == "cut":
        # It would be enough with --nnodes 1:3, but the others have more votes.
        assert nodes[0].wait(60) == 75
        assert "1 of 3 nodes are left here, and it cannot be told" in nodes[0].said()[-1]


@pytest.mark.quick_cases("killed")
@pytest.mark.parametrize("how", ["killed", "cut"])
def test_node_1_goes_on_alone_only_where_node_0_has_surely_ended(hosts, how):
    words = (hosts.script(WITH.replace("NUM_BEFORE", "'2'")),)
    nodes = [hosts.static(host, *words, nnodes="1:2") for host in (0, 1)]
    started(*nodes)
    if how == "killed":
        nodes[0].send(signal.SIGKILL)
        assert nodes[1].wait(90) == 0, nodes[1].stderr
        assert nodes[1].stdout.splitlines()[-1] == "[('0', '10.231.7.2')]"
        assert "relaunch: continuing with 1 nodes, led by node 1." in nodes[1].said()
    else:
        hosts.cut(0)
        assert [node.wait(90) for node in nodes] == [0, 1], [node.stderr for node in nodes]
        assert nodes[0].stdout.splitlines()[-1] == "[('0', '10.231.7.1')]"
        assert "1 of 2 nodes are left here, and it cannot be told" in nodes[1].said()[-1]


def test_a_second_leader_is_lost_as_well(hosts):
    script = hosts.script(WITH.replace("== NUM_BEFORE", "!= '1'"))
    nodes = [hosts.static(host, script, nnodes="1:3") for host in range(3)]
    started(*nodes)
    nodes[0].send(signal.SIGKILL)
    wait_for(lambda: any("led by node 1" in line for line in nodes[2].said()), nodes)
    for node in nodes[1:]:
        (node.folder / "started").unlink(missing_ok=True)
    started(*nodes[1:])
    nodes[1].send(signal.SIGKILL)
    assert nodes[2].wait(90) == 0, nodes[2].stderr
    assert nodes[2].stdout.splitlines()[-1] == "[('0', '10.231.7.3')]"
    assert "relaunch: continuing with 1 nodes, led by node 2." in nodes[2].said()


def test_the_same_command_goes_on_with_another_node_0(hosts):
    script = hosts.script(STAYS)
    nodes = [hosts.static(host, script, nnodes="3") for host in range(3)]
    started(*nodes)
    nodes[0].send(signal.SIGKILL)
    assert [node.wait(60) for node in nodes[1:]] == [1, 1]
    hosts.script("print('on', rank, os.environ['WORLD_SIZE'])")
    where = ("--nnodes", "2", "--master-addr", "10.231.7.2", "--master-port", "29511")
    left = [hosts.start(host, *where, "--node-rank", str(host - 1), script) for host in (1, 2)]
    assert [node.wait(60) for node in left] == [0, 0], [node.stderr for node in left]
    assert left[0].stdout == "on 0 2\n"
