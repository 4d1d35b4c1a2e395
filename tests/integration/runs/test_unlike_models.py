"""Ranks that build other models: a sentence before step 0, under every engine."""

import pytest

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
import os
import torch
from torch.utils.data import TensorDataset
from launcher import Run

torch.manual_seed(os.getpid())
net = torch.nn.Linear(8, 1)

def main(run):
    samples = TensorDataset(torch.randn(32, 8), torch.randn(32, 1))
    job = run.prepare(
        model=lambda: {MODEL},
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        train=samples, global_batch=16, micro_batch=4, epochs=1,
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))

Run.start(main)
"""


@pytest.mark.parametrize(
    ("strategy", "model", "words"),
    [
        ("ddp", "torch.nn.Linear(8, 1 + rank)", "rank 1 has weight float32[2, 8], and rank 0"),
        ("fsdp", "net", "rank 1 has other values in weight than rank 0"),
        ("zero1", "net", "rank 1 has other values in weight than rank 0"),
        # What the sentence names is equal on all ranks.
        ("ddp", "torch.nn.Linear(8, 1)", None),
    ],
)
def test_a_sentence_names_rank_and_parameter(launch, strategy, model, words):
    script = launch.script(SCRIPT.replace("{MODEL}", model))
    launched = launch("--nproc-per-node", "2", "--strategy", strategy, "--run-dir", "run", script)
    if words is None:
        assert launched.wait(60) == 0, launched.stderr
        return
    assert launched.wait(60) == 2, launched.stderr
    assert launched.stderr.count(words) == 1
    assert "Build the model within that function" in launched.stderr
    assert "Traceback" not in launched.stderr
