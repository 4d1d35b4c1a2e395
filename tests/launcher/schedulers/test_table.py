"""Which place a start is in follows from its environment alone."""

import pytest

from launcher.schedulers.table import SCHEDULERS, scheduler_of

GRID_ENGINE = {"JOB_ID": "7", "SGE_JOB_SPOOL_DIR": "/spool/7.1"}


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "1"}, "Slurm"),
        (GRID_ENGINE, "Grid Engine"),
        ({"JOB_ID": "7"}, None),
        ({"PBS_JOBID": "1.server", "PBS_NODEFILE": "/f"}, "PBS"),
        ({"PBS_JOBID": "1.server"}, None),
        ({"FLUX_JOB_ID": "f1", "FLUX_TASK_RANK": "0"}, "Flux"),
        ({"JOB_COMPLETION_INDEX": "0"}, "Kubernetes"),
        ({"RELAUNCH_RAY_NOTICE": "/f"}, "Ray"),
        ({"RELAUNCH_RAY_NOTICE": "/f", "SLURM_JOB_ID": "1"}, "Ray"),
        ({"SLURM_JOB_ID": "1", "JOB_COMPLETION_INDEX": "0"}, "Slurm"),
    ],
)
def test_the_variables_of_a_batch_system(environ: dict[str, str], name: str | None) -> None:
    found = scheduler_of(environ)
    assert (found.name if found else None) == name


def test_each_is_there_once() -> None:
    assert len({known.name for known in SCHEDULERS}) == len(SCHEDULERS)
    assert len({known.module for known in SCHEDULERS}) == len(SCHEDULERS)
