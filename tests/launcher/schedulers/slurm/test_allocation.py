"""Slurm's variables, as a batch script, a task and a shell that has them left over see them."""

from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.schedulers.slurm.allocation import Role, is_in_step, read_allocation

BATCH = {
    "SLURM_JOB_ID": "12",
    "SLURM_JOB_NODELIST": "n[0-1]",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURMD_NODENAME": "n0",
    "SLURM_JOB_PARTITION": "low",
}
TASK = BATCH | {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[0-1]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NODEID": "1",
    "SLURMD_NODENAME": "n1",
}


def read(environ, *, host="n0", in_step=True):
    return read_allocation(environ, host=host, is_in_step=in_step)


def test_a_batch_script():
    found = read(BATCH)
    assert found.role is Role.BATCH
    assert found.nodes == ("n0", "n1")
    # What stands there without --ntasks is the number of CPUs.
    assert found.tasks_per_node is None
    assert (found.key, found.run_id, found.restart_count) == ("12", "12-0", 0)
    assert found.in_step
    assert not read(BATCH, in_step=False).in_step


def test_a_task():
    found = read(TASK, host="n1")
    assert (found.role, found.node_rank, found.tasks_per_node) == (Role.TASK, 1, (1, 1))


@pytest.mark.parametrize("step", ["4294967291", "4294967290"])
def test_a_batch_or_interactive_step_is_no_task(step):
    assert read(BATCH | {"SLURM_STEP_ID": step}).role is Role.BATCH


def test_an_element_of_an_array_has_its_own_name():
    found = read(BATCH | {"SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3"})
    assert found.key == "10_3"


def test_a_requeued_job_meets_elsewhere():
    first, second = read(BATCH), read(BATCH | {"SLURM_RESTART_COUNT": "1"})
    assert second.run_id == "12-1"
    assert first.port != second.port


@pytest.mark.parametrize(
    ("host", "in_step", "role"),
    [
        ("login", False, Role.OUTSIDE),
        ("n0", False, Role.BATCH),
        ("n1.cluster.example", False, Role.BATCH),
        ("vm", True, Role.BATCH),
    ],
)
def test_variables_are_believed_on_the_jobs_nodes_only(host, in_step, role):
    salloc = {k: v for k, v in BATCH.items() if k != "SLURMD_NODENAME"}
    assert read(salloc, host=host, in_step=in_step).role is role


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ({"SLURM_NTASKS_PER_NODE": "8"}, (8, 8)),
        ({"SLURM_NTASKS": "4"}, (2, 2)),
    ],
)
def test_tasks_that_were_asked_for(more, counts):
    assert read(BATCH | more).tasks_per_node == counts


def test_what_slurm_did_not_write():
    with pytest.raises(UsageError, match="SLURM_NODEID=x"):
        read(BATCH | {"SLURM_NODEID": "x"})


@pytest.mark.parametrize(
    ("step_nodes", "is_whole"), [("n[0-1]", True), ("n[1,0]", True), ("n0", False)]
)
def test_a_step_on_part_of_the_job(step_nodes, is_whole):
    assert read(TASK | {"SLURM_STEP_NODELIST": step_nodes}).is_whole_job is is_whole
    assert read(BATCH).is_whole_job


FILE = {"SLURM_HOSTFILE": "/f", "SLURM_JOB_NODELIST": "n[0-2]", "SLURM_STEP_NODELIST": "n[0-2]"}
FILE |= {"SLURM_STEP_TASKS_PER_NODE": "1(x3)"}


@pytest.mark.parametrize(
    ("node", "node_id", "task"), [("n2", "2", "0"), ("n0", "0", "1"), ("n1", "1", "2")]
)
def test_an_arbitrary_distribution_gives_the_order(node, node_id, task):
    environ = TASK | FILE | {"SLURMD_NODENAME": node, "SLURM_NODEID": node_id}
    found = read_allocation(
        environ | {"SLURM_PROCID": task},
        host="vm",
        is_in_step=True,
        read={"/f": "n2\nn0,n1\n"}.__getitem__,
    )
    assert found.nodes == ("n2", "n0", "n1")
    assert (found.node_rank, found.task) == (int(task), int(task))
    assert found.is_on_first is (node == "n2")
    assert found.hostfile == ""


def test_a_batch_script_on_another_node_than_the_first():
    found = read_allocation(
        BATCH | FILE, host="vm", is_in_step=True, read=lambda path: "n2\nn0\nn1\n"
    )
    assert (found.nodes, found.node_rank) == (("n2", "n0", "n1"), 0)
    assert not found.is_on_first


def test_an_order_that_cannot_be_read_is_known_to_be_missing():
    environ = TASK | FILE | {"SLURMD_NODENAME": "n2", "SLURM_NODEID": "2", "SLURM_PROCID": "0"}
    found = read_allocation(environ, host="vm", is_in_step=True, read=lambda path: "")
    assert found.node_rank == 0
    assert found.hostfile == "/f"
    assert read(TASK | {"SLURM_PROCID": "1"}).hostfile == ""


def test_the_batch_script_itself():
    for pid, is_script in ((77, True), (78, False), (None, False)):
        environ = BATCH | {"SLURM_TASK_PID": "77"}
        found = read_allocation(environ, host="n0", is_in_step=True, pid=pid)
        assert found.is_script is is_script


def test_an_ancestor_that_is_slurms(tmp_path: Path):
    for pid, name, parent in ((30, "a (b) c", 20), (20, "slurmstepd", 1), (40, "bash", 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} 1 1")
    assert is_in_step(30, tmp_path)
    assert not is_in_step(40, tmp_path)
    assert not is_in_step(50, tmp_path)
