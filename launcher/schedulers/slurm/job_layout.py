"""Refuses what cannot work in a job's layout, with the corrected line."""

from ...errors import UsageError
from .allocation import Allocation, Role

WHY = "relaunch starts the ranks of a node itself and needs one task on each node"


def check_layout(allocation: Allocation) -> None:
    """See whether the job gives one task a node, with all its GPUs.

    Raises:
        UsageError: It does not.
    """
    if allocation.num_components > 1:
        raise UsageError(
            f"job {allocation.key} is heterogeneous ({allocation.num_components} components), and "
            "a run needs nodes of one kind. Leave out `#SBATCH hetjob` and write one line: "
            f"{_corrected(allocation)}"
        )
    counts = allocation.tasks_per_node or ()
    if any(count > 1 for count in counts):
        most = max(counts)
        raise UsageError(
            f"job {allocation.key} has {most} tasks on a node, but {WHY}. "
            f"Write: {_corrected(allocation)}"
        )
    # One task a node has all GPUs that the job was given there.
    has_one_each = bool(counts) and all(count == 1 for count in counts)
    if allocation.gpus_per_task is not None and not has_one_each:
        raise UsageError(
            f"job {allocation.key} binds its GPUs to tasks (--gpus-per-task="
            f"{allocation.gpus_per_task}), but {WHY} with all its GPUs. "
            f"Write: {_corrected(allocation)}"
        )
    if allocation.gpu_bind not in (None, "none"):
        raise UsageError(
            f"job {allocation.key} binds its GPUs (--gpu-bind={allocation.gpu_bind}), but {WHY} "
            f"with all its GPUs. Leave --gpu-bind out: {_corrected(allocation)}"
        )


def check_nodes(allocation: Allocation, num_min: int, num_max: int, spelled: str) -> None:
    """Compare the number of nodes that was asked for with the one that Slurm gave.

    Raises:
        UsageError: They contradict each other.
    """
    given = len(allocation.nodes)
    if not num_min <= given <= num_max:
        count = "1 node" if given == 1 else f"{given} nodes"
        raise UsageError(
            f"{spelled}, but job {allocation.key} has {count} ({','.join(allocation.nodes[:4])}"
            f"{',...' if given > 4 else ''}). Leave --nnodes out: it comes from Slurm."
        )


def _corrected(allocation: Allocation) -> str:
    nodes = len(allocation.nodes)
    gpus = _gpus(allocation)
    gpu_words = f" --gpus-per-node={gpus}" if gpus else ""
    if allocation.role is Role.TASK:
        return f"srun --nodes={nodes} --ntasks-per-node=1{gpu_words} relaunch ..."
    return f"#SBATCH --nodes={nodes} --ntasks-per-node=1{gpu_words}"


def _gpus(allocation: Allocation) -> int | None:
    """Return the GPUs of a node; of those bound to tasks, all tasks' together."""
    per_task = (allocation.gpus_per_task or "").rpartition(":")[2]
    if per_task.isdecimal() and allocation.tasks_per_node:
        return int(per_task) * max(allocation.tasks_per_node)
    return allocation.gpus_on_node
