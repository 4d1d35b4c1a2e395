"""The manifests of scripts/kubernetes: against the published schemas, and against relaunch itself.

The schemas come with `scripts/install test test-kubernetes`.
"""

import importlib
import re
from typing import Any

import pytest

from launcher.command_line.parser import parse_command_line
from launcher.contract.exit_codes import CONTINUE, DO_NOT_RETRY
from launcher.errors import UsageError
from launcher.plan.options import LaunchOptions
from launcher.schedulers.table import find_cluster
from tests import kubernetes_pods

each_manifest = pytest.mark.parametrize("name", kubernetes_pods.NAMES)
MODELS = {
    "JobSet": "JobsetV1alpha2JobSet",
    "TrainJob": "TrainerV1alpha1TrainJob",
    "TrainingRuntime": "TrainerV1alpha1TrainingRuntime",
}
"""Classes of kubeflow_trainer_api.models."""


def module_of(model: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", model).lower()


def lost(given: Any, read: Any, place: str = "") -> list[str]:
    """What a model has not read: it ignores a name that it does not know."""
    if isinstance(given, dict) and isinstance(read, dict):
        found = [f"{place}.{key}" for key in given.keys() - read.keys()]
        for key in given.keys() & read.keys():
            found += lost(given[key], read[key], f"{place}.{key}")
        return found
    if isinstance(given, list) and isinstance(read, list):
        parts = enumerate(zip(given, read, strict=True))
        return [name for at, pair in parts for name in lost(*pair, f"{place}[{at}]")]
    return [] if given == read else [f"{place}: {given!r} is {read!r}"]


def without_quantities(value: Any) -> Any:
    """Leave out "512Gi" and its like, which these models do not take as a manifest has them."""
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if key not in ("limits", "sizeLimit")}
        return {key: without_quantities(part) for key, part in kept.items()}
    return [without_quantities(part) for part in value] if isinstance(value, list) else value


def check_model(document: dict[str, Any]) -> list[str]:
    model, document = MODELS[document["kind"]], without_quantities(document)
    package = "kubeflow_trainer_api.models"
    found = getattr(importlib.import_module(f"{package}.{module_of(model)}"), model)
    read = found.model_validate(document).model_dump(by_alias=True, exclude_none=True)
    return lost(document, read)


@each_manifest
def test_the_published_models_take_all_of_it(name: str) -> None:
    pytest.importorskip("kubeflow_trainer_api")
    for document in kubernetes_pods.documents(name).values():
        if document["kind"] in MODELS:
            assert check_model(document) == []


def test_a_misspelled_field_is_seen() -> None:
    pytest.importorskip("kubeflow_trainer_api")
    document = kubernetes_pods.documents("jobset")
    pod = document["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["terminationGracePeriod"] = 3
    (found,) = check_model(document["JobSet"])
    assert found.endswith(".spec.terminationGracePeriod")


@each_manifest
@pytest.mark.parametrize("version", ["1.31", "1.34"])
def test_the_schemas_of_kubernetes_take_the_job(name: str, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "train"}}
    spec = kubernetes_pods.job_spec(name)
    spec["template"]["spec"]["containers"] = [kubernetes_pods.container(name)]
    validate.validate({**job, "spec": spec}, version, strict=True)
    if name == "job":
        validate.validate(kubernetes_pods.documents(name)["Service"], version, strict=True)


@each_manifest
def test_each_pod_starts_relaunch_without_an_option_about_nodes(name: str) -> None:
    container, num_nodes = kubernetes_pods.container(name), kubernetes_pods.num_nodes(name)
    assert container["command"] == ["relaunch"]
    for index in range(num_nodes):
        environ = kubernetes_pods.environment(name, index)
        options = parse_command_line(
            container["args"], environ, find_cluster(environ, (), print).supply
        )
        assert isinstance(options, LaunchOptions)
        nodes = options.nodes
        assert (nodes.node_rank, nodes.num_min, nodes.num_max) == (index, num_nodes, num_nodes)
        assert nodes.master_addr is not None
        assert nodes.master_addr.startswith("train-")
        assert options.notes == ()
    environ = kubernetes_pods.environment(name, num_nodes)
    environ.pop("PET_NODE_RANK", None)
    with pytest.raises(UsageError, match=rf"JOB_COMPLETION_INDEX={num_nodes}, but"):
        parse_command_line(container["args"], environ, find_cluster(environ, (), print).supply)


@each_manifest
def test_exit_codes_and_times(name: str) -> None:
    spec, container = kubernetes_pods.job_spec(name), kubernetes_pods.container(name)
    actions = {
        code: rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", ())
    }
    assert actions == {2: "FailJob", DO_NOT_RETRY: "FailJob", CONTINUE: "Ignore"}
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {"containerName": container["name"], "operator": "In"})
        assert (codes["containerName"], codes["operator"]) == (container["name"], "In")
    assert spec["podReplacementPolicy"] == "Failed"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    args = container["args"]
    grace_s, run_dir = (args[args.index(word) + 1] for word in ("--grace", "--run-dir"))
    assert 0 < float(grace_s) < pod["terminationGracePeriodSeconds"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert run_dir.startswith(f"{mounts['runs']}/")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes.keys() == mounts.keys()
    assert "persistentVolumeClaim" in volumes["runs"]


def test_names_lead_to_node_0() -> None:
    found = kubernetes_pods.documents("job")
    service, job = found["Service"], found["Job"]
    pod = job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert service["metadata"]["name"] == pod["subdomain"]
    addr = f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert kubernetes_pods.environment("job", 0)["PET_MASTER_ADDR"] == addr
    found = kubernetes_pods.documents("jobset")["JobSet"]
    (replicated,) = found["spec"]["replicatedJobs"]
    addr = f"{found['metadata']['name']}-{replicated['name']}-0-0"
    subdomain = found["spec"]["network"]["subdomain"]
    assert kubernetes_pods.environment("jobset", 0)["PET_MASTER_ADDR"] == f"{addr}.{subdomain}"
    runtime = kubernetes_pods.documents("trainjob")
    assert (
        runtime["TrainJob"]["spec"]["runtimeRef"]["name"]
        == (runtime["TrainingRuntime"]["metadata"]["name"])
    )
