"""What a script's source says about how it trains."""

import pytest

from launcher.plan.script_modules import modules_in, spawn_line


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
