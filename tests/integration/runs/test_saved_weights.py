"""Saved weights are not put into a model that is being trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import sys
import torch
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run
from strategies import EarlyStopping

def measure(model, batch):
    return {"loss": (model(batch[0]) - batch[1]).square()[:, 0]}

def main(run):
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, x.sum(1, keepdim=True))
    job = run.prepare(
        model=lambda: nn.Linear(4, 1), optimizer=lambda ps: torch.optim.SGD(ps, lr=0.01),
        train=data, global_batch=4, micro_batch=4, epochs=2, stop=EarlyStopping("val/loss"),
    )
    where = sys.argv[1]
    if where == "test ahead":
        job.test(data, measure)
    for step in job:
        for a, b in step:
            step.backward((job.model(a) - b).square().sum(), count=len(a))
        if step.evaluation_due:
            step.evaluate(data, measure)
        if where == "test in the last step" and step.number == 11:
            job.test(data, measure)
        if where == "test inside" and step.number == 8:
            job.test(data, measure)
        if where == "export inside" and step.number == 8:
            job.export("last")
        if where == "best inside" and step.number == 8:
            job.export("best")
    job.export("last")
    job.test(data, measure)

if __name__ == "__main__":
    Run.start(main)
"""


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("where", "code", "sentence"),
    [
        ("test ahead", 2, "job.test takes the saved weights of the end of the training"),
        ("test inside", 1, "Call it after the training loop"),
        ("test in the last step", 1, "Call it after the training loop"),
        ("export inside", 1, "job.export('last') takes the saved weights"),
        ("best inside", 1, "job.export('best') takes the saved weights"),
        ("after", 0, ""),
    ],
)
def test_they_are_for_after_the_training(
    where: str, code: int, sentence: str, python: Callable[..., Any], tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = python(str(script), where, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    if code == 0:
        again = python(str(script), where, cwd=tmp_path)
        assert (again.returncode, "exported the last" in again.stdout) == (0, True), again.stderr
