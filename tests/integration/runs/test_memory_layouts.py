"""Parameters and buffers whose elements are not in order in memory: channels_last, expand, t()."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

SLOW = pytest.mark.slow

SCRIPT = """
import os, signal
import torch
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.mix = nn.Parameter(torch.randn(8, 5).t())
        self.register_buffer("steps", torch.arange(5.0).expand(2, 5))

    def forward(self, x):
        h = self.conv(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        return h @ self.mix.t() + self.steps[0]

def main(run):
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(16, 3, 4, 4), torch.randn(16, 5))
    job = run.prepare(
        model=lambda: Net().to(memory_format=torch.channels_last),
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.01), train=data,
        global_batch=8, micro_batch=4, epochs=2,
    )
    for step in job:
        if step.number == int(os.environ.get("STOP", -1)):
            os.kill(os.getpid(), signal.SIGTERM)
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(x))
    job.export("last")

Run.start(main)
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("single", "fsdp"),
        pytest.param("ddp", "single", marks=SLOW),
        pytest.param("zero2", "zero3", marks=SLOW),
    ],
)
def test_they_train_and_move_as_others_do(
    first: str, then: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]

    def started(strategy: str, folder: str, stop: str, code: int) -> None:
        ranks = "1" if strategy == "single" else "2"
        options = ("--strategy", strategy, "--run-dir", str(tmp_path / folder))
        launched = launch("--nproc-per-node", ranks, *options, script, env={"STOP": stop})
        assert launched.wait(140) == code, launched.stderr

    started("single", "whole", "-1", 0)
    started(first, "moved", "1", 75)
    started(then, "moved", "-1", 0)
    wanted, found = (
        load_file(tmp_path / name / "export" / "model.safetensors") for name in ("whole", "moved")
    )
    for name, tensor in wanted.items():
        assert float((found[name] - tensor).abs().max()) < 1e-6
