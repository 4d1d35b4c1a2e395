"""The pods that scripts/kubernetes makes."""

from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

FOLDER = Path(__file__).parents[1] / "scripts" / "kubernetes"
NAMES = ("job", "jobset", "trainjob")
SECRET = "a secret of the test's own"


def documents(name: str) -> dict[str, dict[str, Any]]:
    """The manifests of a file, by kind."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return {str(found["kind"]): found for found in yaml.safe_load_all(text)}


def job_spec(name: str) -> dict[str, Any]:
    """What makes the pods."""
    found = documents(name)
    if name == "job":
        return found["Job"]["spec"]
    owner = found["JobSet"] if name == "jobset" else found["TrainingRuntime"]["spec"]["template"]
    (job,) = owner["spec"]["replicatedJobs"]
    return job["template"]["spec"]


def container(name: str) -> dict[str, Any]:
    """The one container of a pod; Trainer takes some of it from the TrainJob."""
    (found,) = job_spec(name)["template"]["spec"]["containers"]
    if name == "trainjob":
        trainer = documents(name)["TrainJob"]["spec"]["trainer"]
        found = {**found, "command": trainer["command"], "args": trainer["args"]}
        found["resources"] = trainer["resourcesPerNode"]
    return found


def num_nodes(name: str) -> int:
    if name == "trainjob":
        return int(documents(name)["TrainJob"]["spec"]["trainer"]["numNodes"])
    return int(job_spec(name)["completions"])


def environment(name: str, index: int) -> dict[str, str]:
    """The environment of the pod of an index, as Kubernetes and Trainer make it."""
    given = {"JOB_COMPLETION_INDEX": str(index), "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    for variable in container(name)["env"]:
        given[variable["name"]] = variable.get("value", SECRET)
    if name == "trainjob":
        job = documents(name)["TrainJob"]
        trainer, run = job["spec"]["trainer"], job["metadata"]["name"]
        given |= {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer.get("numProcPerNode", "auto")),
            "PET_NODE_RANK": str(index),
            "PET_MASTER_ADDR": f"{run}-node-0-0.{run}",
            "PET_MASTER_PORT": "29400",
        }
    return given
