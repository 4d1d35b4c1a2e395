"""A resume reports what the script asks for otherwise, and checkpoints that are gone."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import os, signal
import torch
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run

def main(run):
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    job = run.prepare(
        model=lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 1)),
        optimizer=lambda ps: torch.optim.SGD(ps, lr=0.1),
        train=TensorDataset(x, x.sum(1, keepdim=True)),
        global_batch=4, micro_batch=2, epochs=1, save_every="2 steps", max_grad_norm=None,
    )
    for step in job:
        for a, b in step:
            step.backward((job.model(a) - b).square().sum(), count=len(a))
        if step.number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

if __name__ == "__main__":
    Run.start(main)
"""


@pytest.mark.timeout(200)
def test_what_the_script_asks_for_otherwise_is_reported(
    python: Callable[..., Any], tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    assert python(str(script), cwd=tmp_path).returncode == 75
    shutil.copytree(tmp_path / "runs", tmp_path / "other" / "runs")
    edited = SCRIPT.replace("max_grad_norm=None", "max_grad_norm=0.5")
    script.write_text(edited.replace("Dropout(0.1)", "Dropout(0.3)"))
    done = python(str(script), cwd=tmp_path)
    for change in (
        "max_grad_norm: None -> 0.5",
        "layers of the model: 1 Dropout(p=0.1, inplace=False) -> 1 Dropout(p=0.3, inplace=False)",
        "files edited: train.py",
    ):
        assert f"changed by the script: {change}" in done.stdout
    assert "is no longer in" not in done.stderr

    script.write_text(SCRIPT)
    shutil.rmtree(tmp_path / "other" / "runs" / "train" / "checkpoints")
    done = python(str(script), cwd=tmp_path / "other")
    assert "changed by the script" not in done.stdout
    assert "was saved, but is no longer in" in done.stderr
