"""A preemption notice to a run of several nodes, before, between and during its attempts."""

import os
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(150)
NOTICES = ("SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2")
STARTS = "came before the ranks were started; the same command starts the run."

NEVER = "pathlib.Path('began').touch()\n"
OURS = """
from launcher import beat
from launcher.contract.files.leaving import tell_leaving
from launcher.contract.environment import RankEnvironment
environment = RankEnvironment.from_environ(os.environ)
def deaf():
    for signum in (1, 2, 10, 12, 15): signal.signal(signum, signal.SIG_IGN)
def ready():
    pathlib.Path("ready").write_text(str(os.getpid()))
    while not all(pathlib.Path(f"../node-{node}/ready").exists() for node in (0, 1)):
        time.sleep(0.02)
"""


def wait_for(condition, *nodes):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, [node.stderr for node in nodes]
        time.sleep(0.02)


def ready(*nodes):
    """Wait until the ranks are there; return their process ids."""
    files = [node.folder / "ready" for node in nodes]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files), *nodes)
    return [int(file.read_text()) for file in files]


@pytest.mark.quick_cases("SIGTERM", "SIGINT", "SIGUSR1")
@pytest.mark.parametrize("name", NOTICES)
def test_node_0_is_asked_to_leave_while_it_waits_for_another(hosts, name):
    node = hosts.static(0, hosts.script(NEVER))
    wait_for(lambda: "waiting for node 1 of 2" in node.stderr, node)
    node.send(signal.Signals[name])
    assert node.wait(30) == 75
    assert node.said()[-1] == f"relaunch: {name} {STARTS}"


@pytest.mark.parametrize("addr", ["10.231.7.1", "10.231.7.77", "no-such-host.invalid"])
def test_another_node_is_asked_to_leave_while_node_0_is_not_there(hosts, addr):
    """Nobody listens, nobody answers, nobody has that name."""
    words = ("--master-addr", addr, "--master-port", "29511")
    node = hosts.start(1, "--nnodes", "2", "--node-rank", "1", *words, hosts.script(NEVER))
    wait_for(lambda: "node 0 is not at" in node.stderr, node)
    node.send(signal.SIGTERM)
    assert node.wait(30) == 75
    assert node.said()[-1] == f"relaunch: SIGTERM {STARTS}"


@pytest.mark.parametrize("asked", [0, 1])
def test_a_notice_while_a_third_node_is_missing_is_one_for_all(hosts, asked):
    script = hosts.script(NEVER)
    nodes = [hosts.static(host, script, nnodes="3") for host in (0, 1)]
    wait_for(lambda: all("waiting for node 2 of 3" in node.stderr for node in nodes), *nodes)
    nodes[asked].send(signal.SIGUSR1)
    assert [node.wait(30) for node in nodes] == [75, 75], [node.stderr for node in nodes]
    for node in nodes:
        assert node.said()[-1] == f"relaunch: SIGUSR1 {STARTS}"
        assert not (node.folder / "began").exists()


FAILS = """
restart = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
beat(5 + restart)
sys.exit(7)
"""


@pytest.mark.parametrize("asked", [0, 1])
def test_a_notice_while_a_restart_is_waited_for(hosts, asked):
    script = hosts.script(OURS + FAILS)
    nodes = [hosts.static(host, "--max-restarts", "9", script) for host in (0, 1)]
    wait_for(lambda: "waiting 2 s before" in nodes[0].stderr, *nodes)
    nodes[asked].send(signal.SIGTERM)
    assert [node.wait(60) for node in nodes] == [75, 75], [node.stderr for node in nodes]
    for node in nodes:
        line = node.said()[-1]
        assert line == (
            "relaunch: SIGTERM: preempted before restart 3; the same command resumes the run."
        )


@pytest.mark.parametrize("asked", [0, 1])
def test_a_notice_to_one_rank_before_the_first_step(hosts, asked):
    source = OURS + f"if rank != {asked}: deaf()\nready()\ntime.sleep(100)"
    script = hosts.script(source)
    nodes = [hosts.static(host, "--max-restarts", "2", script) for host in (0, 1)]
    os.kill(ready(*nodes)[asked], signal.SIGTERM)
    assert [node.wait(40) for node in nodes] == [75, 75], [node.stderr for node in nodes]
    for node in nodes:
        assert node.said()[-1].startswith(
            f"relaunch: rank {asked} was preempted (SIGTERM) before the first step of this"
        ), node.stderr


PEERS = """
import torch.distributed as dist
dist.init_process_group("gloo")
beat(5)
ready()
if rank == {leaves}:
    time.sleep(0.5)
    tell_leaving(environment.leaving_file, 75)
    os._exit(75)
dist.barrier()
"""


@pytest.mark.parametrize("leaves", [0, 1])
def test_a_node_whose_peers_have_saved_and_left(hosts, leaves):
    script = hosts.script(OURS + PEERS.format(leaves=leaves))
    nodes = [hosts.static(host, "--max-restarts", "2", script) for host in (0, 1)]
    assert [node.wait(60) for node in nodes] == [75, 75], [node.stderr for node in nodes]
    for node in nodes:
        line = node.said()[-1]
        assert line.startswith(f"relaunch: the ranks of node {1 - leaves} ("), node.stderr
        assert line.endswith(
            ") ended because the others had saved and exited: this is not a failure."
        )
