"""The environment of a pod gives relaunch its place among the nodes."""

import pytest

from launcher.agent.cluster import ClusterEnvironment
from launcher.command_line.parser import parse_command_line
from launcher.errors import UsageError
from launcher.schedulers.indexed_job import IndexedJob
from launcher.schedulers.table import find_cluster

TRAINER = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "auto",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "train-node-0-0.train",
    "PET_MASTER_PORT": "29400",
}
"""What Kubeflow Trainer sets; its pods belong to an indexed Job too."""
INDEXED = {
    "PET_NNODES": "2",
    "PET_MASTER_ADDR": "train-0.train",
    "PET_MASTER_PORT": "29500",
    "JOB_COMPLETION_INDEX": "1",
}
PYTORCHJOB = {
    "PET_NNODES": "1:2",
    "PET_NPROC_PER_NODE": "2",
    "PET_RDZV_BACKEND": "c10d",
    "PET_RDZV_ENDPOINT": "train-worker-0:23456",
    "PET_RDZV_ID": "train",
    "PET_MAX_RESTARTS": "3",
}
"""What Kubeflow's older Training Operator sets for an elastic job."""


def parse(environ, *options):
    site = find_cluster(environ, (), print)
    return parse_command_line((*options, "train.py"), environ, site.supply)


@pytest.mark.parametrize(
    ("environ", "rank", "nodes", "place"),
    [
        (TRAINER, 1, (2, 2), ("train-node-0-0.train", 29400)),
        ({**TRAINER, "JOB_COMPLETION_INDEX": "1"}, 1, (2, 2), ("train-node-0-0.train", 29400)),
        (INDEXED, 1, (2, 2), ("train-0.train", 29500)),
        ({**INDEXED, "JOB_COMPLETION_INDEX": "0"}, 0, (2, 2), ("train-0.train", 29500)),
        ({**INDEXED, "PET_NNODES": "1:2"}, 1, (1, 2), ("train-0.train", 29500)),
        # A rank that is given counts.
        ({**INDEXED, "PET_NODE_RANK": "0"}, 0, (2, 2), ("train-0.train", 29500)),
        # Numbered as they arrive, as without a Job.
        (PYTORCHJOB, None, (1, 2), ("train-worker-0", 23456)),
        ({**PYTORCHJOB, "JOB_COMPLETION_INDEX": "1"}, None, (1, 2), ("train-worker-0", 23456)),
        # Each pod is a run of its own.
        ({"JOB_COMPLETION_INDEX": "7"}, None, (1, 1), (None, None)),
        ({"JOB_COMPLETION_INDEX": "7", "PET_NNODES": "1"}, None, (1, 1), (None, None)),
    ],
)
def test_the_environment_alone_says_how_the_nodes_meet(environ, rank, nodes, place):
    found = parse(environ).nodes
    assert found.node_rank == rank
    assert (found.num_min, found.num_max) == nodes
    assert (found.master_addr, found.master_port) == place


def test_the_command_line_wins():
    assert parse(INDEXED, "--node-rank", "0").nodes.node_rank == 0
    assert parse(INDEXED, "--nnodes", "1", "--nproc-per-node", "3").nodes.node_rank is None


def test_the_ranks_of_a_node():
    assert parse(TRAINER).nproc_per_node == "auto"
    assert parse(PYTORCHJOB).nproc_per_node == 2
    assert parse(INDEXED).nproc_per_node is None


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("2", "JOB_COMPLETION_INDEX=2, but PET_NNODES=2: the nodes are 0 to 1. Set completions"),
        ("one", "JOB_COMPLETION_INDEX=one is not a whole number."),
        ("", "JOB_COMPLETION_INDEX= is not a whole number."),
    ],
)
def test_an_index_that_is_no_rank_is_refused(index, message):
    with pytest.raises(UsageError) as caught:
        parse({**INDEXED, "JOB_COMPLETION_INDEX": index})
    assert str(caught.value).startswith(message)


def test_where_a_start_takes_place():
    assert type(find_cluster({}, (), print)) is ClusterEnvironment
    assert type(find_cluster({"JOB_COMPLETION_INDEX": "0"}, (), print)) is IndexedJob
