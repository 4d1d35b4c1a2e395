"""A run of two nodes: meeting, order, failures, losses."""

import re
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(150)
ADDRESSES = ("10.231.7.1", "10.231.7.2")

MEETS = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
names = [None] * dist.get_world_size()
place = [os.environ[name][-1] for name in
    ("GROUP_RANK", "LOCAL_RANK", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")]
dist.all_gather_object(names, place)
if rank == 0: print(names)
dist.barrier()
dist.destroy_process_group()
"""

STAYS = """
pathlib.Path("started").touch()
time.sleep(200)
"""


def started(*nodes):
    end = time.monotonic() + 60
    while not all((node.folder / "started").exists() for node in nodes):
        assert time.monotonic() < end, [node.stderr for node in nodes]
        time.sleep(0.05)


def test_ranks_follow_the_node_ranks(hosts):
    script = hosts.script(MEETS)
    nodes = [hosts.static(host, "--nproc", "2", script) for host in (1, 0)]
    assert [node.wait(100) for node in nodes] == [0, 0], [node.stderr for node in nodes]
    assert nodes[1].stdout.splitlines()[-1] == str(
        [["0", "0", "0", "0"], ["0", "1", "0", "0"], ["1", "0", "1", "1"], ["1", "1", "1", "1"]]
    )
    assert [node.said() for node in nodes] == [[], []]


def test_nodes_are_numbered_as_they_arrive(hosts):
    script = hosts.script("print(rank, os.environ['GROUP_RANK'], os.environ['WORLD_SIZE'])")
    words = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29512")
    nodes = [hosts.start(host, "--nnodes", "2", *words, script) for host in (1, 0)]
    assert [node.wait() for node in nodes] == [0, 0], [node.stderr for node in nodes]
    assert nodes[1].stdout == "0 0 2\n"
    assert nodes[0].stdout == "[rank 1] 1 1 2\n" or nodes[0].stdout == "1 1 2\n"


def test_the_first_failure_is_told_on_all_nodes(hosts):
    script = hosts.script(
        """
if rank == 1:
    pathlib.Path("started").touch()
    time.sleep(2)
    raise ValueError("lost the thread")
time.sleep(100)
"""
    )
    nodes = [hosts.static(host, script) for host in (0, 1)]
    assert [node.wait() for node in nodes] == [1, 1]
    for node in nodes:
        said = node.said()
        assert said[0].startswith("relaunch: on node 1 (")
        assert "relaunch: ValueError: lost the thread" in said


def test_a_restart_takes_all_nodes(hosts):
    script = hosts.script(
        MEETS + "if rank == 1 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': sys.exit(7)\n"
    )
    nodes = [hosts.static(host, "--max-restarts", "1", script) for host in (0, 1)]
    assert [node.wait(120) for node in nodes] == [0, 0], [node.stderr for node in nodes]
    assert nodes[0].stdout.count("[[") == 2
    assert all("relaunch: starting the ranks again: restart 1 of 1." in n.said() for n in nodes)


def test_a_hang_on_one_node_shows_where_the_ranks_of_all_are(hosts):
    script = hosts.script(
        """
from launcher import beat
def works():
    while True:
        beat(5)
        time.sleep(0.05)
def hangs():
    beat(5)
    time.sleep(100)
(works, hangs)[rank]()
"""
    )
    words = ("--hang-timeout", "2", "--log-dir", str(hosts.folder / "logs"), script)
    nodes = [hosts.static(host, *words) for host in (0, 1)]
    assert [node.wait(60) for node in nodes] == [137, 137]
    for node, name in enumerate(("works", "hangs")):
        stacks = hosts.folder / "logs" / f"node-{node}" / "attempt-1" / "stacks.txt"
        assert f"in {name}" in stacks.read_text()
    assert "relaunch: no rank made progress for 2 s after step 5; killing all" in nodes[1].said()[0]
    there = nodes[0].said()[0]
    assert there.startswith("relaunch: no rank of node 1 (")
    assert ") made progress after step 5; killing those of this node too. " in there
    assert "Where they were: " in there


def test_a_missing_node_is_named(hosts):
    words = ("--rdzv-conf", "join_timeout=5")
    node = hosts.static(0, *words, hosts.script(STAYS))
    assert node.wait(60) == 1
    first = rf"relaunch: waiting for node 1 of 2 at {ADDRESSES[0]}:29511, \d+ s so far\. Start"
    assert re.match(first, node.said()[0])
    assert node.said()[-1].startswith("relaunch: error: gave up: waiting for node 1 of 2")


@pytest.mark.parametrize(
    ("addr", "reason"),
    [
        ("10.231.7.1", "connection refused"),
        ("no-such-host.invalid", "the name no-such-host.invalid cannot be resolved"),
    ],
)
def test_node_0_is_not_there(hosts, addr, reason):
    words = ("--master-addr", addr, "--master-port", "29511", "--rdzv-conf", "join_timeout=12")
    node = hosts.start(1, "--nnodes", "2", "--node-rank", "1", *words, hosts.script(STAYS))
    assert node.wait(60) == 1
    assert len(node.said()) == 2, node.said()
    first, last = node.said()
    assert first.startswith(f"relaunch: node 0 is not at {addr}:29511: {reason}")
    assert "Start the same command on node 0" in last


def test_two_nodes_of_one_rank_are_told(hosts):
    script = hosts.script(STAYS)
    zero = hosts.static(0, "--rdzv-conf", "join_timeout=100", script, nnodes="3")
    where = ("--master-addr", ADDRESSES[0], "--master-port", "29511")
    twins = [hosts.start(1, "--nnodes", "3", "--node-rank", "1", *where, script) for _ in range(2)]
    end = time.monotonic() + 40
    while all(not twin.ended() for twin in twins):
        assert time.monotonic() < end
        time.sleep(0.1)
    refused = next(twin for twin in twins if twin.ended())
    assert refused.wait() == 2
    assert "--node-rank 1 is taken by another node" in refused.said()[-1]
    zero.send(signal.SIGTERM)
    assert zero.wait(60) == 75


def test_ranks_that_stay_behind_on_one_node_are_ended(hosts):
    """A launcher's own bound is a minute; here it is shorter."""
    script = hosts.script(
        """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("started").touch()
if rank == 0:
    while not pathlib.Path("../node-1/started").exists(): time.sleep(0.05)
    sys.exit(75)
time.sleep(200)
"""
    )
    bounds = {"leave_s": 2.0, "terminate_s": 1.0}
    nodes = [hosts.static(host, script, bounds=bounds) for host in (0, 1)]
    assert [node.wait(60) for node in nodes] == [75, 75], [node.stderr for node in nodes]
    assert nodes[1].said() == [
        "relaunch: rank 1 did not exit within 2 s after the others; ending it now."
    ]
    assert nodes[0].said() == []


def test_nodes_may_end_at_different_times(hosts):
    script = hosts.script("time.sleep(3 * rank)")
    nodes = [hosts.static(host, script) for host in (0, 1)]
    assert [node.wait(60) for node in nodes] == [0, 0]
    assert [node.said() for node in nodes] == [[], []]


def test_contradicting_numbers_of_nodes_are_refused(hosts):
    script = hosts.script("print('started')")
    nodes = [hosts.static(host, script, nnodes=nnodes) for host, nnodes in ((0, "2"), (1, "3"))]
    assert nodes[1].wait(60) == 2
    assert nodes[1].said()[-1] == (
        "relaunch: error: node 0 refuses this node: it was started with --nnodes 3:3, node 0 with "
        "--nnodes 2:2. Pass the same on each node."
    )
    nodes[0].send(signal.SIGTERM)
    assert nodes[0].wait(60) == 75
    assert any("may not take part: it was started with" in line for line in nodes[0].said())
    assert nodes[0].stdout + nodes[1].stdout == ""


def test_a_warning_to_one_node_reaches_all(hosts):
    script = hosts.script(
        """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path("started").touch()
time.sleep(100)
"""
    )
    nodes = [hosts.static(host, script) for host in (0, 1)]
    started(*nodes)
    nodes[1].send(signal.SIGTERM)
    assert [node.wait(60) for node in nodes] == [75, 75]


def test_only_the_interface_of_the_rendezvous_is_listened_on(hosts):
    script = hosts.script(
        """
import torch.distributed as dist
dist.init_process_group("gloo")
import subprocess
print(subprocess.run(["ss", "-Hltn"], capture_output=True, text=True).stdout, flush=True)
dist.barrier()
"""
    )
    nodes = [hosts.static(host, script) for host in (0, 1)]
    assert [node.wait(100) for node in nodes] == [0, 0], [node.stderr for node in nodes]
    for node, address in zip(nodes, ADDRESSES, strict=True):
        lines = [line.removeprefix("[rank 1] ").split() for line in node.stdout.splitlines()]
        places = {words[3].rpartition(":")[0] for words in lines if words and words[0] == "LISTEN"}
        assert places == {address}


def test_the_cause_is_told_though_another_node_ended_before_it(hosts):
    """Rank 1 tells its mistake and closes its connections; its process stays for four seconds."""
    script = hosts.script(
        """
import ctypes
from torch.utils.data import TensorDataset
import torch
from launcher import Run

def main(run):
    job = run.prepare(
        model=lambda: torch.nn.Linear(8, 1),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        train=TensorDataset(torch.randn(64, 8), torch.randn(64, 1)),
        global_batch=16, micro_batch=4, epochs=500,
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))
        if rank == 1 and step.number == 5:
            break
    job.export("last")

if rank == 1:
    libc = ctypes.CDLL(None)
    libc.on_exit(libc.sleep, None)
    libc.on_exit(libc.sleep, None)
Run.start(main)
"""
    )
    words = ("--run-dir", str(hosts.folder / "run"))
    nodes = [hosts.static(host, *words, script) for host in (0, 1)]
    assert [node.wait() for node in nodes] == [1, 1], [node.stderr for node in nodes]
    for node in nodes:
        (on_node, cause) = node.said()[-2:]
        assert on_node.startswith("relaunch: on node 1 (")
        assert "rank 1 left the training loop in step 5 by" in cause
