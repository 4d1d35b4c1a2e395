"""Adversarial samples and penalties on gradients: right, or refused with what computes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

SLOW = pytest.mark.slow

SCRIPT = """
import sys
import torch
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run

IS_PENALTY = sys.argv[1] == "penalty"

def main(run):
    x = torch.randn(16, 4)
    job = run.prepare(
        model=lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1), train=TensorDataset(x, x.sin()),
        global_batch=8, micro_batch=2, epochs=2,
    )
    for step in job:
        for x, y in step:
            x = x.clone().requires_grad_(True)
            loss = (job.model(x) - y).square().sum()
            grad, = torch.autograd.grad(loss, x, create_graph=IS_PENALTY)
            if IS_PENALTY:
                loss = loss + 0.1 * grad.square().sum()
            else:
                loss = (job.model((x + 0.1 * grad.sign()).detach()) - y).square().sum()
            step.backward(loss, count=len(x))
    job.export("last")

torch.manual_seed(0)
Run.start(main)
"""


@pytest.mark.parametrize(
    ("num_ranks", "strategy", "what", "why"),
    [
        (2, "fsdp", "penalty", "with create_graph=True by torch.autograd.grad"),
        pytest.param(1, "zero1", "adversarial", "DeepSpeed takes each backward", marks=SLOW),
        pytest.param(2, "zero2", "penalty", "DeepSpeed takes each backward", marks=SLOW),
        pytest.param(2, "zero3", "adversarial", "DeepSpeed takes each backward", marks=SLOW),
    ],
)
def test_what_an_engine_cannot_do_is_refused(
    num_ranks: int, strategy: str, what: str, why: str, launch: Callable[..., Any]
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    options = ("--nproc-per-node", str(num_ranks), "--strategy", strategy)
    launched = launch(*options, script, what)
    assert launched.wait(110) == 2, launched.stderr
    assert why in launched.stderr
    assert "use --strategy ddp (single on one rank)" in launched.stderr
    assert "Traceback" not in launched.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("strategy", "what"), [("ddp", "penalty"), ("ddp", "adversarial"), ("fsdp", "adversarial")]
)
def test_what_the_sentence_names_trains_as_one_rank_does(
    strategy: str, what: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    found = []
    for num_ranks, name in ((1, "single"), (2, strategy)):
        folder = tmp_path / name
        options = ("--strategy", name, "--run-dir", str(folder))
        launched = launch("--nproc-per-node", str(num_ranks), *options, script, what)
        assert launched.wait(110) == 0, launched.stderr
        found.append(load_file(folder / "export" / "model.safetensors"))
    for name, wanted in found[0].items():
        assert float((found[1][name] - wanted).abs().max()) < 1e-6
