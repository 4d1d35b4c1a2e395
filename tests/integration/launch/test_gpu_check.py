"""scripts/gpu_check runs without a GPU too, so that a slip in a step costs no time on one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "scripts" / "gpu_check.py")
assert spec is not None
gpu_check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu_check)


def run(out, *words):
    return subprocess.run(
        [ROOT / "scripts" / "gpu_check", "--out", out, *words],
        env={**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_steps_fit_into_eight_minutes():
    assert sum(gpu_check.BUDGETS_S.values()) <= gpu_check.DEADLINE_S <= 480
    steps = {path.stem for path in (ROOT / "scripts" / "gpu_steps").glob("*.py")}
    assert steps == {*gpu_check.BUDGETS_S, "kit"}


def test_a_table_has_every_fact():
    found = {
        "speed": [gpu_check.fact("a step", 12.3456, "ms", passed=True, target="<= 13")],
        "zero": [gpu_check.fact("ended", "code 1; see log", passed=False)],
    }
    lines = gpu_check.table(found).splitlines()
    assert lines[2] == "| speed | a step | 12.35 ms | <= 13 | ok |"
    assert lines[3] == "| zero | ended | code 1; see log |  | **not ok** |"


def test_without_a_gpu_it_says_what_to_pass(tmp_path):
    ended = run(tmp_path)
    assert ended.returncode == 2
    assert "Pass --allow-cpu" in ended.stdout


def test_a_step_that_does_not_fit_is_skipped(tmp_path):
    ended = run(tmp_path, "--allow-cpu", "--only", "facts,zero", "--deadline", "1")
    assert ended.returncode == 0
    assert ended.stdout.count("skipped") == 2
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert list(found) == ["facts", "zero"]


@pytest.mark.parametrize(
    ("step", "budget_s", "says"),
    [
        ("raise SystemExit(3)", 60, "code 3; see "),
        ("import os; os.kill(os.getpid(), 9)", 60, "code -9; see "),
        ("import time; time.sleep(600)", 0.5, "not within 2 s; see "),
        (
            "import os; open(os.environ['GPU_CHECK_OUT'] + '/facts.jsonl', 'w').write("
            '\'{"what": "a ratio", "value": 1.2, "unit": "", "pass": false, "target": "<= 1"}\')',
            60,
            "| bad | a ratio | 1.2 | <= 1 | **not ok** |",
        ),
    ],
)
def test_a_step_that_fails_is_named_and_ends_with_1(
    tmp_path, monkeypatch, capsys, step, budget_s, says
):
    steps = tmp_path / "scripts" / "gpu_steps"
    steps.mkdir(parents=True)
    (steps / "bad.py").write_text(step + "\n")
    (steps / "good.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_check, "BUDGETS_S", {"bad": budget_s, "good": 60})
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--allow-cpu", "--out", str(tmp_path / "out")])
    assert gpu_check.main() == 1
    shown = capsys.readouterr().out
    assert says in shown
    assert "**not ok**" in shown
    # The steps after it run, and the table stands beside what each has printed.
    assert "| good | seconds |" in shown
    assert says in (tmp_path / "out" / "gpu_check.md").read_text()


QUICK = ("facts", "fp16")


@pytest.mark.timeout(300)
def test_a_step_runs_on_a_cpu(tmp_path):
    ended = run(tmp_path, "--allow-cpu", "--only", ",".join(QUICK))
    assert ended.returncode == 0, ended.stdout
    table = (tmp_path / "gpu_check.md").read_text()
    assert "| facts | torch |" in table
    assert "| fp16 | a step of inf is left out | True |  | ok |" in table


@pytest.mark.timeout(500)
@pytest.mark.parametrize("step", [name for name in gpu_check.BUDGETS_S if name not in QUICK])
def test_every_step_runs_on_a_cpu(tmp_path, step):
    ended = run(tmp_path, "--allow-cpu", "--only", step, "--deadline", "400")
    found = json.loads((tmp_path / "gpu_check.json").read_text())[step]
    assert ended.returncode == 0, (ended.stdout, (tmp_path / step / "log").read_text()[-3000:])
    assert len(found) > 1
