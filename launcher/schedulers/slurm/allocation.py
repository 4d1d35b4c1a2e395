"""The job and this process in Slurm's environment: read by one function."""

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import UsageError
from .hostlist import expand_counts, expand_nodes, in_order

JOB_ID = "SLURM_JOB_ID"
_NO_TASK_STEPS = frozenset({4294967290, 4294967291, 4294967292})
"""Steps without tasks of their own: interactive, batch and extern (slurm.h)."""


class Role(enum.Enum):
    """What this process is to the job."""

    BATCH = enum.auto()
    """The batch script, or a shell of the job on one of its nodes: it may run srun."""
    TASK = enum.auto()
    """A task that srun started."""
    OUTSIDE = enum.auto()
    """It knows the job's variables but runs on none of its nodes: salloc's shell, or left over."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A job, as one of its processes sees it."""

    job_id: int
    role: Role
    nodes: tuple[str, ...]
    """Of the step in a task, else of the job; in Slurm's order, which is that of the ranks."""
    node_rank: int
    is_on_first: bool = True
    """This process runs on the first of them, as far as is known."""
    hostfile: str = ""
    """SLURM_HOSTFILE, where it could not be read and does give the order; else empty."""
    in_step: bool = True
    """One of Slurm's own processes was seen above this one; else only names say that it is here."""
    step: int | None = None
    """In a task: the number of its step."""
    task: int = 0
    """Of the step, counted over all nodes."""
    is_whole_job: bool = True
    """The step, if this is one of its tasks, has all nodes of the job."""
    is_script: bool = False
    """This process is what Slurm has started: the batch script by `exec`, or a task of srun's."""
    array_job_id: int | None = None
    array_task_id: int | None = None
    restart_count: int = 0
    """How often the job was requeued before, for whatever cause."""
    tasks_per_node: tuple[int, ...] | None = None
    """In a task: of the step, node by node. Else: as asked for, where it was."""
    num_tasks: int | None = None
    """In a batch script: as asked for; None where it was not."""
    partition: str | None = None
    gpus_on_node: int | None = None
    gpus_per_task: str | None = None
    gpu_bind: str | None = None
    num_components: int = 1
    """Above 1: a heterogeneous job."""
    end_time_s: float | None = None
    """When the time limit is reached, in seconds since the epoch; newer versions tell it."""

    @property
    def key(self) -> str:
        """Return the name by which scontrol knows this very job: an array's element by its own."""
        if self.array_job_id is not None and self.array_task_id is not None:
            return f"{self.array_job_id}_{self.array_task_id}"
        return str(self.job_id)

    @property
    def run_id(self) -> str:
        """Return a name for this start: the job's number stays the same after a requeue."""
        return f"{self.job_id}-{self.restart_count}"

    @property
    def port(self) -> int:
        """Return where the agents meet, unless something else listens there.

        Two jobs on a node, and two starts of one job, get different ones.
        """
        return 20000 + (self.job_id * 7 + self.restart_count) % 10000


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_allocation(
    environ: Mapping[str, str],
    *,
    host: str,
    is_in_step: bool,
    pid: int | None = None,
    expand: Callable[[str], tuple[str, ...]] = expand_nodes,
    read: Callable[[str], str] = _read,
) -> Allocation:
    """Read the variables of a job; the only place that does.

    Args:
        environ: It has SLURM_JOB_ID.
        host: This machine's name.
        is_in_step: This process was seen to be one of Slurm's (see `is_in_step`).
        pid: This process's; None: not known.
        expand: From a node list to the names.
        read: From a file's path to its text; empty where it cannot be read.

    Raises:
        UsageError: A variable is not what Slurm writes.
    """
    step = _number(environ, "SLURM_STEP_ID")
    is_task = step is not None and step not in _NO_TASK_STEPS
    nodes, is_whole_job = _nodes(environ, expand, is_task=is_task)
    hostfile = environ.get("SLURM_HOSTFILE", "")
    listed = read(hostfile) if hostfile else environ.get("SLURM_ARBITRARY_NODELIST", "")
    nodes = in_order(nodes, listed)
    name = environ.get("SLURMD_NODENAME")
    # In a container Slurm's own processes cannot be seen; then a node's name has to do.
    is_here = is_in_step or not {name, host, host.partition(".")[0]}.isdisjoint(nodes)
    role = (Role.TASK if is_task else Role.BATCH) if is_here else Role.OUTSIDE
    counts = _tasks_per_node(environ, is_task=is_task, num_nodes=len(nodes))
    node_rank, task = _number(environ, "SLURM_NODEID") or 0, _number(environ, "SLURM_PROCID")
    if task is not None and role is Role.TASK and counts is not None and set(counts) == {1}:
        # With --distribution=arbitrary the tasks are not in the order of the nodes' numbers.
        node_rank = task
    return Allocation(
        job_id=_number(environ, JOB_ID) or 0,
        role=role,
        nodes=nodes,
        node_rank=node_rank,
        is_on_first=nodes[:1] == (name,) if name else node_rank == 0,
        hostfile=hostfile if name in nodes[:node_rank] + nodes[node_rank + 1 :] else "",
        in_step=is_in_step,
        step=step if role is Role.TASK else None,
        task=(task or 0) if role is Role.TASK else 0,
        is_whole_job=is_whole_job,
        is_script=pid is not None and _number(environ, "SLURM_TASK_PID") == pid,
        array_job_id=_number(environ, "SLURM_ARRAY_JOB_ID"),
        array_task_id=_number(environ, "SLURM_ARRAY_TASK_ID"),
        restart_count=_number(environ, "SLURM_RESTART_COUNT") or 0,
        tasks_per_node=counts,
        num_tasks=_number(environ, "SLURM_NTASKS"),
        partition=environ.get("SLURM_JOB_PARTITION"),
        gpus_on_node=_number(environ, "SLURM_GPUS_ON_NODE"),
        gpus_per_task=environ.get("SLURM_GPUS_PER_TASK"),
        gpu_bind=environ.get("SLURM_GPU_BIND"),
        num_components=_number(environ, "SLURM_HET_SIZE") or 1,
        end_time_s=_number(environ, "SLURM_JOB_END_TIME"),
    )


def is_in_step(pid: int, proc: Path = Path("/proc")) -> bool:
    """Return whether one of Slurm's step daemons is an ancestor of the process."""
    for _ in range(1000):
        if pid <= 1:
            return False
        try:
            text = (proc / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        # The name stands in brackets and may hold brackets and blanks itself.
        name, _, rest = text.partition("(")[2].rpartition(")")
        if name.startswith("slurmstepd"):
            return True
        pid = int(rest.split()[1])
    return False


def _nodes(
    environ: Mapping[str, str], expand: Callable[[str], tuple[str, ...]], *, is_task: bool
) -> tuple[tuple[str, ...], bool]:
    """Return the nodes of the step in a task, else of the job, and whether they are all of it."""
    prefix = "SLURM_STEP_" if is_task and "SLURM_STEP_NODELIST" in environ else "SLURM_JOB_"
    of_job = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST", "")
    nodes = expand(environ.get(f"{prefix}NODELIST") or of_job)
    return nodes, set(nodes) == set(expand(of_job))


def _tasks_per_node(
    environ: Mapping[str, str], *, is_task: bool, num_nodes: int
) -> tuple[int, ...] | None:
    if is_task:
        text = environ.get("SLURM_STEP_TASKS_PER_NODE")
        return None if text is None else expand_counts(text)
    asked = _number(environ, "SLURM_NTASKS_PER_NODE")
    if asked is not None:
        return (asked,) * num_nodes
    # Without a wish Slurm writes the number of CPUs here.
    if "SLURM_NTASKS" in environ and "SLURM_TASKS_PER_NODE" in environ:
        return expand_counts(environ["SLURM_TASKS_PER_NODE"])
    return None


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if text is None or not text.strip():
        return None
    try:
        number = float(text)
        if math.isfinite(number):
            return int(number)
    except ValueError:
        pass
    raise UsageError(f"{name}={text} in the environment is not a number; Slurm did not write that.")
