"""Gradients that a script clips where there are none any more: refused, with what does clip."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

SLOW = pytest.mark.slow

SCRIPT = """
import os, sys
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import TensorDataset
from launcher import Run

PLACE = sys.argv[1]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        # Larger than what ZeRO-3 keeps whole.
        self.first, self.head = nn.Linear(24, 4300), nn.Linear(4300, 4)

    def forward(self, x):
        return self.head(torch.tanh(self.first(x)))

class Clamped(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.clamp_(-0.01, 0.01)
        return super().step(closure)

def measure(model, batch):
    return {"loss": (model(batch[0]) - batch[1]).square().mean(1)}

def main(run):
    torch.manual_seed(0)
    x = torch.randn(16, 24)
    data = TensorDataset(x, torch.randn(16, 4))
    job = run.prepare(
        model=Net,
        optimizer=lambda p: (Clamped if PLACE == "optimizer" else torch.optim.SGD)(p, lr=0.05),
        max_grad_norm=0.1 if PLACE == "option" else None,
        train=data, global_batch=8, micro_batch=2, epochs=2,
        evaluate_every="1 step", save_every="1 step",
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))
            if PLACE == "inside":
                clip_grad_norm_(job.model.parameters(), 0.1)
            if PLACE == "by hand":
                for p in job.model.parameters():
                    if p.grad is not None:
                        p.grad.clamp_(-0.01, 0.01)
        if PLACE == "after":
            clip_grad_norm_(job.model.parameters(), 0.1)
        if step.evaluation_due:
            step.evaluate(data, measure)
        job.model.zero_grad()
    job.export("last")

Run.start(main)
"""


@pytest.mark.parametrize(
    ("num_ranks", "strategy", "place", "more", "lost"),
    [
        (1, "single", "after", (), "the update of the step has dropped"),
        pytest.param(2, "zero2", "inside", (), "strategy=zero2 has taken", marks=SLOW),
        pytest.param(2, "zero3", "inside", (), "strategy=zero3 has taken", marks=SLOW),
        pytest.param(2, "zero3", "by hand", (), "strategy=zero3 has taken", marks=SLOW),
        pytest.param(2, "zero2", "after", (), "the update of the step has dropped", marks=SLOW),
        pytest.param(2, "fsdp", "after", (), "the update of the step has dropped", marks=SLOW),
        pytest.param(2, "ddp", "inside", ("--exact",), "strategy=ddp has taken", marks=SLOW),
    ],
)
def test_what_would_have_no_effect_is_refused(
    num_ranks: int,
    strategy: str,
    place: str,
    more: tuple[str, ...],
    lost: str,
    launch: Callable[..., Any],
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    options = ("--nproc-per-node", str(num_ranks), "--strategy", strategy, *more)
    launched = launch(*options, script, place)
    assert launched.wait(110) in (1, 2)  # after the first update it is 1
    assert "the script uses the gradient of " in launched.stderr
    assert f", which {lost}" in launched.stderr
    assert "To clip them pass run.prepare(max_grad_norm=...)." in launched.stderr


@pytest.mark.slow
def test_stage_1_adds_micro_batches_in_grad(launch: Callable[..., Any]) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    launched = launch("--strategy", "zero1", script, "by hand")
    assert launched.wait(110) == 2
    assert "the script has changed the gradient of first.weight" in launched.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", ["option", "optimizer", "nowhere"])
def test_what_the_sentence_names_does_the_same_under_every_strategy(
    place: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    found = {}
    for num_ranks, strategy in ((1, "single"), (2, "fsdp"), (2, "zero1"), (2, "zero3")):
        folder = tmp_path / strategy
        options = ("--strategy", strategy, "--run-dir", str(folder))
        launched = launch("--nproc-per-node", str(num_ranks), *options, script, place)
        assert launched.wait(140) == 0, launched.stderr
        found[strategy] = load_file(folder / "export" / "model.safetensors")
    for one in found.values():
        for name, wanted in found["single"].items():
            assert float((one[name] - wanted).abs().max()) < 1e-6
