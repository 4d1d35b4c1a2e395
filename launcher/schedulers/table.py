"""Which batch system a start is in: a table, asked from top to bottom."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from ..agent.cluster import ClusterEnvironment
from ..contract.environment import RAY_NOTICE

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """A place to start in, and how it is known."""

    name: str
    variables: tuple[str, ...]
    """It is this one where the environment has all of them."""
    module: str
    """Its function `find(environ, argv, say)` returns the place; imported where it is needed."""


SCHEDULERS = (
    # First: Ray itself may run in a job of another, whose variables its workers inherit.
    Scheduler(name="Ray", variables=(RAY_NOTICE,), module="launcher.schedulers.ray_worker"),
    Scheduler(
        name="Slurm", variables=("SLURM_JOB_ID",), module="launcher.schedulers.slurm.environment"
    ),
    Scheduler(
        name="Grid Engine",
        variables=("JOB_ID", "SGE_JOB_SPOOL_DIR"),
        module="launcher.schedulers.grid_engine.environment",
    ),
    Scheduler(
        name="PBS", variables=("PBS_JOBID", "PBS_NODEFILE"), module="launcher.schedulers.pbs"
    ),
    Scheduler(
        name="Flux", variables=("FLUX_JOB_ID", "FLUX_TASK_RANK"), module="launcher.schedulers.flux"
    ),
    Scheduler(
        name="Kubernetes",
        variables=("JOB_COMPLETION_INDEX",),
        module="launcher.schedulers.indexed_job",
    ),
)


def scheduler_of(environ: Mapping[str, str]) -> Scheduler | None:
    """Return the batch system whose variables the environment has; None: a plain machine. Pure."""
    return next(
        (known for known in SCHEDULERS if all(name in environ for name in known.variables)), None
    )


def find_cluster(environ: Mapping[str, str], argv: Sequence[str], say: Say) -> ClusterEnvironment:
    """Return where this start takes place.

    Raises:
        UsageError: The environment is that of a job, and this process is not in it.
    """
    if (found := scheduler_of(environ)) is None:
        return ClusterEnvironment()
    # A start elsewhere need not read what only one of them needs.
    cluster = import_module(found.module).find(environ, argv, say)
    assert isinstance(cluster, ClusterEnvironment)
    return cluster
