"""A worker of Ray Train with a stand-in for Ray, and small programs in place of the launcher."""

import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from launcher.bridges.ray_train import decisions, loop
from launcher.bridges.ray_train.decisions import RunFailed, RunPreempted, RunRefused
from launcher.bridges.ray_train.loop import RelaunchTrainLoop
from strategies import ConfigError

SAYS = "import sys; print('relaunch: error: no such thing', file=sys.stderr); sys.exit(%d)"
LEAVES = """
import os, pathlib, shutil, signal, sys, time
def leave(signum, frame):
    shutil.copy(os.environ["RELAUNCH_RAY_NOTICE"], "notice.json")
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
pathlib.Path("ready").touch()
time.sleep(60)
"""


class Ray:
    """One worker of one, and the notice that Ray will have once a file is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kind = "local"
        self.deadline_s: float | None = None
        self.broadcast: list[Any] = []

    def get_world_rank(self) -> int:
        return 0

    def get_world_size(self) -> int:
        return 1

    def get_experiment_name(self) -> str:
        return "one"

    def get_storage(self) -> Any:
        filesystem = SimpleNamespace(type_name=self.kind)
        return SimpleNamespace(
            experiment_fs_path=str(self.folder / "run"), storage_filesystem=filesystem
        )

    def preemption(self) -> Any:
        if self.deadline_s is None or not (self.folder / "ready").exists():
            return None
        deadline_ms = int(self.deadline_s * 1000)
        return SimpleNamespace(deadline_ms=deadline_ms, preempted_node_ids=["0123456789"])

    def pass_on(self, value: Any) -> Any:
        self.broadcast.append(value)
        return value


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ray:
    fake = Ray(tmp_path)
    modules = {name: ModuleType(name) for name in ("ray", "ray.util", "ray.train")}
    modules["ray.train.collective"] = ModuleType("ray.train.collective")
    runtime = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": []})
    vars(modules["ray"]).update(get_runtime_context=lambda: runtime, util=modules["ray.util"])
    vars(modules["ray.util"]).update(get_node_ip_address=lambda: "127.0.0.1")
    vars(modules["ray.train"]).update(
        get_context=lambda: fake, get_preemption_info=lambda: fake.preemption()
    )
    vars(modules["ray.train.collective"]).update(broadcast_from_rank_zero=fake.pass_on)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(loop, "LOOK_S", 0.02)
    monkeypatch.setattr(decisions, "TEARDOWN_S", 0.1)
    monkeypatch.chdir(tmp_path)
    return fake


def run(monkeypatch: pytest.MonkeyPatch, program: str) -> dict[str, Any]:
    monkeypatch.setattr(loop, "command_of", lambda *_, **__: [sys.executable, "-c", program])
    return RelaunchTrainLoop("train.py")({})


def test_the_last_metrics_are_returned(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    (ray.folder / "run").mkdir()
    (ray.folder / "run" / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "val/a": 3.0}\n')
    assert run(monkeypatch, "print('well')") == {
        "run_dir": str(ray.folder / "run"),
        "step": 2,
        "val/a": 3.0,
    }
    assert (ray.folder / "run" / "logs" / "ray-worker-0.log").read_text() == "well\n"
    assert ray.broadcast[-1] is True  # rank 0 has told all that it is over


@pytest.mark.parametrize(
    ("code", "kind"), [(1, RunFailed), (2, RunRefused), (93, RunRefused), (75, RunPreempted)]
)
def test_an_exit_code_is_raised(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="no such thing"):
        run(monkeypatch, SAYS % code)


def test_a_notice_reaches_the_launcher_with_its_deadline(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.deadline_s = float(int(time.time()) + 2)
    with pytest.raises(RunPreempted, match="resumes at its next start"):
        run(monkeypatch, LEAVES)
    notice = json.loads((ray.folder / "notice.json").read_text())
    assert notice == {"cause": "Ray preempts node 01234567", "deadline": ray.deadline_s}
    assert time.time() > ray.deadline_s  # until then Ray would count it as a failure


def test_no_file_system(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.kind = "s3"
    with pytest.raises(ConfigError, match="Pass RelaunchTrainLoop"):
        run(monkeypatch, "print('never')")
    given = RelaunchTrainLoop("train.py", run_dir=ray.folder / "mine")
    assert given({})["run_dir"] == str(ray.folder / "mine")


def test_what_an_earlier_start_has_printed_stays(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "print('first')")
    capfd.readouterr()
    run(monkeypatch, "print('second')")
    assert capfd.readouterr().out == "second\n"
    log = ray.folder / "run" / "logs" / "ray-worker-0.log"
    assert log.read_text() == "first\nsecond\n"


def test_nothing_of_the_launcher_stays_open(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    run(monkeypatch, "pass")
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"run_dir": "runs/one"}, "is a relative path"),
        ({"nproc_per_node": 0}, "starts no rank"),
        ({"nnodes": 2}, "follow from Ray's workers"),
    ],
)
def test_refused_before_ray_starts_anything(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RelaunchTrainLoop("train.py", **options)
