"""Weights that a script changes ahead of the loop, and an optimizer that it steps: refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SLOW = pytest.mark.slow

SCRIPT = """
import os, signal, sys
import torch
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run

WHAT = sys.argv[1]
made = []

def optimizer(parameters):
    made[:] = [torch.optim.SGD(parameters, lr=0.1, momentum=0.9)]
    return made[0]

def start_anew(module):
    if isinstance(module, nn.Linear):
        module.weight.data.normal_()

def main(run):
    x = torch.randn(16, 4)
    job = run.prepare(
        model=lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), optimizer=optimizer,
        train=TensorDataset(x, x), global_batch=8, micro_batch=4, epochs=2,
    )
    if job.step == 0 and WHAT == "stop" or job.step > 0 and WHAT == "apply":
        job.model.apply(start_anew)
    if WHAT == "load":
        job.model.load_state_dict({n: p * 2 for n, p in job.model.state_dict().items()})
    for step in job:
        if WHAT == "leave" and step.number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(x))
            if WHAT == "micro":
                made[0].step()
        if WHAT == "step":
            made[0].step()

Run.start(main)
"""


@pytest.mark.parametrize(
    ("num_ranks", "strategy", "what"),
    [
        (1, "single", "load"),
        pytest.param(2, "ddp", "stop", marks=SLOW),
        pytest.param(2, "fsdp", "stop", marks=SLOW),
    ],
)
def test_weights_that_every_start_would_overwrite_are_refused(
    num_ranks: int, strategy: str, what: str, launch: Callable[..., Any]
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    options = ("--nproc-per-node", str(num_ranks), "--strategy", strategy)
    launched = launch(*options, script, what)
    assert launched.wait(110) == 2, launched.stderr
    assert "0.weight was changed between run.prepare and the training loop." in launched.stderr


def test_a_resume_does_not_train_on_from_other_weights(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    options = ("--strategy", "single", "--run-dir", str(tmp_path / "run"))
    assert launch(*options, script, "leave").wait(110) == 75
    launched = launch(*options, script, "apply")
    assert launched.wait(110) == 2, launched.stderr
    assert "overwrite the weights of its checkpoint" in launched.stderr


@pytest.mark.parametrize(
    ("num_ranks", "strategy", "what"),
    [
        (1, "single", "micro"),
        pytest.param(2, "ddp", "step", marks=SLOW),
        pytest.param(2, "fsdp", "micro", marks=SLOW),
        pytest.param(2, "zero2", "micro", marks=SLOW),
        pytest.param(2, "zero3", "step", marks=SLOW),
    ],
)
def test_an_optimizer_that_the_script_steps_is_refused(
    num_ranks: int, strategy: str, what: str, launch: Callable[..., Any]
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    options = ("--nproc-per-node", str(num_ranks), "--strategy", strategy)
    launched = launch(*options, script, what)
    assert launched.wait(110) in (1, 2), launched.stderr
    assert "the script has called step() of the optimizer." in launched.stderr
