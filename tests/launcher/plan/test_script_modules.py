"""What a script's source says about how it trains."""

from pathlib import Path

import pytest

from launcher.plan.launch_plan import calls_run_start
from launcher.plan.program import Program, ProgramKind
from launcher.plan.script_modules import modules_in, names_torch_variable, spawn_line


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import torch, numpy as np", {"torch", "numpy"}),
        ("from transformers import Trainer", {"transformers"}),
        ("import lightning.pytorch as pl", {"lightning"}),
        ("def main():\n    from trl import SFTTrainer", {"trl"}),
        ("from . import beside", set()),
        ("not python at all", set()),
    ],
)
def test_modules(source: str, modules: set[str]) -> None:
    assert modules_in(source) == modules


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import torch.multiprocessing as mp\nmp.spawn(main, nprocs=2)", 2),
        ("import torch.multiprocessing as tmp\n\ntmp.spawn(main)", 3),
        ("import torch\ntorch.multiprocessing.spawn(main)", 2),
        ("from torch.multiprocessing import spawn\nspawn(main)", 2),
        ("from torch.multiprocessing import start_processes as go\ngo(main)", 2),
        ("import multiprocessing as mp\nmp.Process(target=main).start()", None),
        ("def spawn(): pass\nspawn()", None),
        ("pool.spawn(main)", None),
        ("(", None),
    ],
)
def test_the_line_that_spawns(source: str, line: int | None) -> None:
    assert spawn_line(source) == line


@pytest.mark.parametrize(
    ("script", "beside", "names"),
    [
        ("import torch", "", False),
        ("os.environ['TORCHINDUCTOR_MAX_AUTOTUNE'] = '1'", "", True),
        ("os.environ.setdefault('TORCH_LOGS', '+dynamo')", "", True),
        ("import settings", "os.environ.update(TORCHDYNAMO_DISABLE='1')", True),
        ("import other", "os.environ.update(TORCHDYNAMO_DISABLE='1')", False),
        ("import settings  # for PYTORCH and TORCH", "x = 1", False),
    ],
)
def test_a_variable_of_torch(script: str, beside: str, names: bool, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "settings.py").write_text(beside)
    program = Program(kind=ProgramKind.SCRIPT, name=str(tmp_path / "train.py"), args=())
    assert names_torch_variable(program) is names


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        ("Run.start(main)", True),
        ("import beside\nbeside.train()", True),
        ("from beside import train\ntrain()", True),
        ("train()", False),
        ("import missing", False),
    ],
)
def test_who_calls_run_start(script: str, calls: bool, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "beside.py").write_text("def train(): Run.start(main)")
    program = Program(kind=ProgramKind.SCRIPT, name=str(tmp_path / "train.py"), args=())
    assert calls_run_start(program) is calls
