"""The scripts under scripts/examples do what they say, with real processes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)
EXAMPLES = Path(__file__).parents[3] / "scripts" / "examples"


@pytest.fixture
def example(launch: Callable[..., Any]) -> Callable[..., Any]:
    def start(name: str, *words: str, options: tuple[str, ...] = ()) -> Any:
        shutil.copy(EXAMPLES / name, launch.folder)  # type: ignore[attr-defined]
        return launch("--nproc-per-node", "2", *options, name, *words)

    return start


def test_fit_and_its_settings(example: Callable[..., Any], run: Any) -> None:
    options = ("--run-dir", str(run.path), "--strategy", "zero1")
    launched = example("fit.py", "--epochs=3", "--width", "8", options=options)
    assert launched.wait(90) == 0, launched.stderr
    assert "settings: lr=0.01  width=8  epochs=3" in launched.stdout
    kept = json.loads((run.path / "run.json").read_text())
    assert kept["config"] == {"lr": 0.01, "width": 8, "epochs": 3}
    assert run.events("test")[0]["test/accuracy"] > 0.4
    assert (run.path / "export" / "model.safetensors").exists()


def test_a_wrong_setting_is_one_sentence(example: Callable[..., Any], run: Any) -> None:
    launched = example("fit.py", "--epoch=3", options=("--run-dir", str(run.path)))
    assert launched.wait(90) == 2
    (said,) = launched.said()
    assert re.fullmatch(
        r"relaunch: error: fit\.py:\d+: --epoch: unknown setting .*mean epochs\?", said
    )


def test_a_schedule_and_a_rule_alone(python: Callable[..., Any], tmp_path: Path) -> None:
    done = python(str(EXAMPLES / "schedule_alone.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stopped after epoch" in done.stdout
    assert float(done.stdout.split()[-1]) < 1e-2


def test_the_boundary_alone(example: Callable[..., Any]) -> None:
    launched = example("boundary_alone.py")
    assert launched.wait(90) == 0, launched.stderr
    assert sorted(line.removeprefix("[rank 1] ") for line in launched.stdout.splitlines()) == [
        "rank 0 leaves at step 8, asked for by 1 rank",
        "rank 1 leaves at step 8, asked for by 1 rank",
    ]


def test_a_strategy_and_checkpoints_alone(example: Callable[..., Any], tmp_path: Path) -> None:
    for name, steps in (("fsdp", "0 to 5"), ("zero2", "5 to 10")):
        launched = example("strategy_alone.py", name, str(tmp_path / "kept"))
        assert launched.wait(90) == 0, launched.stderr
        assert f"steps {steps} under {name}" in launched.stdout


def test_checkpoints_alone(python: Callable[..., Any], tmp_path: Path) -> None:
    """Two starts of five steps end where one of ten would: weights and moments are back."""
    script = EXAMPLES / "checkpoint_alone.py"
    halves = [python(str(script), str(tmp_path / "kept"), cwd=tmp_path) for _ in range(2)]
    (tmp_path / "ten.py").write_text(script.read_text().replace("STEPS = 5", "STEPS = 10"))
    whole = python(str(tmp_path / "ten.py"), str(tmp_path / "ten"), cwd=tmp_path)
    for done in (*halves, whole):
        assert done.returncode == 0, done.stderr
    assert halves[0].stdout.startswith("steps 0 to 5,")
    assert halves[1].stdout.startswith("steps 5 to 10,")
    assert whole.stdout.split()[-1] == halves[1].stdout.split()[-1]
