"""Layouts that cannot work are refused with the corrected line; what Slurm gives is filled in."""

from dataclasses import replace

import pytest

from launcher.agent.cluster import is_by_hand
from launcher.agent.master_address import find_address
from launcher.command_line.argv import read_words
from launcher.errors import ToldElsewhere, UsageError
from launcher.schedulers.slurm.allocation import Allocation, Role
from launcher.schedulers.slurm.default_options import check, with_job

BATCH = Allocation(
    job_id=12, role=Role.BATCH, nodes=("n0", "n1"), node_rank=0, gpus_on_node=8, restart_count=2
)
TASK = replace(BATCH, role=Role.TASK, node_rank=1, tasks_per_node=(1, 1))


def words(*argv):
    return read_words((*argv, "train.py"), {})


@pytest.mark.parametrize(
    ("allocation", "line"),
    [
        (
            replace(BATCH, tasks_per_node=(8, 8)),
            "#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8",
        ),
        (
            replace(TASK, tasks_per_node=(8, 8)),
            "srun --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 relaunch ...",
        ),
        (
            replace(BATCH, gpus_per_task="2", gpus_on_node=None),
            "#SBATCH --nodes=2 --ntasks-per-node=1",
        ),
        (
            replace(BATCH, gpus_per_task="a100:2", tasks_per_node=(1, 4), gpus_on_node=None),
            "#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8",
        ),
        (
            replace(TASK, gpu_bind="single:1"),
            "Leave --gpu-bind out: srun --nodes=2 --ntasks-per-node=1 --gpus-per-node=8",
        ),
        (
            replace(BATCH, num_components=2, gpus_on_node=None),
            "#SBATCH --nodes=2 --ntasks-per-node=1",
        ),
    ],
)
def test_refused_with_the_corrected_line(allocation, line):
    with pytest.raises(UsageError) as error:
        check(words(), allocation)
    assert line in str(error.value)


def test_one_of_the_tasks_says_it():
    wrong = replace(TASK, tasks_per_node=(8, 8))
    with pytest.raises(UsageError) as first:
        check(words(), wrong)
    assert not isinstance(first.value, ToldElsewhere)
    with pytest.raises(ToldElsewhere):
        check(words(), replace(wrong, task=5))


@pytest.mark.parametrize(
    "allocation",
    [
        BATCH,
        TASK,
        replace(BATCH, gpu_bind="none"),
        replace(TASK, gpus_per_task="8"),
        replace(BATCH, gpus_per_task="a100:8", tasks_per_node=(1, 1)),
    ],
)
def test_one_task_a_node_is_right(allocation):
    check(words(), allocation)
    check(words("--nnodes", "2"), allocation)
    check(words("--nnodes", "1:4"), allocation)


@pytest.mark.parametrize("nnodes", ["1", "3", "3:4"])
def test_another_number_of_nodes_is_refused(nnodes):
    with pytest.raises(UsageError, match=r"job 12 has 2 nodes \(n0,n1\)\. Leave --nnodes out"):
        check(words("--nnodes", nnodes), BATCH)


def test_slurm_says_what_a_person_would_have_to():
    found = with_job(words(), TASK, addr="10.0.0.1", port=20086)
    assert {name: given.text for name, given in found.given.items()} == {
        "--nnodes": "2",
        "--node-rank": "1",
        "--master-addr": "10.0.0.1",
        "--master-port": "20086",
        "--rdzv-id": "12-2",
    }


def test_what_was_given_stays():
    found = with_job(words("--master-port", "4000"), TASK, addr="10.0.0.1", port=20086)
    assert found.given["--master-port"].text == "4000"


def test_one_node_meets_nobody():
    found = with_job(words(), replace(BATCH, nodes=("n0",)), addr="", port=0)
    assert set(found.given) == {"--rdzv-id"}


@pytest.mark.parametrize(
    ("argv", "by_hand"),
    [
        ((), False),
        (("--nnodes", "2"), False),
        (("--standalone",), True),
        (("--node-rank", "0"), True),
        (("--rdzv-endpoint", "n0:1"), True),
    ],
)
def test_words_that_say_how_to_meet_are_taken_as_they_are(argv, by_hand):
    assert is_by_hand(words(*argv)) is by_hand


@pytest.mark.parametrize(
    ("names", "is_first", "found"),
    [
        ({"n0": "10.0.0.1", "n1": "10.0.0.2"}, True, "10.0.0.1"),
        # A host that knows itself as loopback only: its address on the way to another.
        ({"n0": "127.0.1.1", "n1": "10.0.0.2"}, True, "10.0.0.9"),
        ({"n0": "127.0.1.1", "addr-n0": "10.0.0.1"}, True, "10.0.0.1"),
        ({"addr-n0": "127.0.0.1"}, False, "127.0.0.1"),
    ],
)
def test_the_first_nodes_address(names, is_first, found):
    address = find_address(
        ("n0", "n1"),
        is_first=is_first,
        node_addr=lambda name: f"addr-{name}",
        resolve=names.get,
        own_address=lambda peer: "10.0.0.9",
    )
    assert address == found
