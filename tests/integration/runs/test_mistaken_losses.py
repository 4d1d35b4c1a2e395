"""What is passed to step.backward and returned by measure, as it is often got wrong."""

import pytest
import torch
import torch.nn.functional as F

from launcher.training.loop.steps.loss_checks import is_mean

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset
from launcher import Run

net = torch.nn.Linear(8, 1)

def main(run):
    samples = TensorDataset(torch.randn({SAMPLES}, 8), torch.randn({SAMPLES}, 1))
    job = run.prepare(
        model=lambda: net,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        train=samples, global_batch=16, micro_batch=4, epochs=1,
    )
    for step in job:
        for x, y in step:
            loss = F.mse_loss({NET}(x), y, reduction="sum")
            {BACKWARD}
        if step.evaluation_due:
            step.evaluate(samples, lambda model, batch: {MEASURED})

Run.start(main)
"""
GOOD = {
    "NET": "job.model",
    "SAMPLES": "32",
    "BACKWARD": "step.backward(loss, count=len(y))",
    "MEASURED": '{"loss": model(batch[0]).square()}',
}
MEAN = "F.mse_loss(job.model(x), y)"


@pytest.mark.parametrize(
    ("mistake", "code", "words"),
    [
        ({}, 0, None),
        (
            {"BACKWARD": f"step.backward({MEAN}, count=len(y))"},
            0,
            "the loss of step 0 is a mean, and it was passed with count=4",
        ),
        ({"BACKWARD": f"step.backward({MEAN}, count=1)"}, 0, None),
        ({"BACKWARD": f"step.backward({MEAN} * len(y), count=len(y))"}, 0, None),
        ({"BACKWARD": "step.backward(loss.item(), count=len(y))"}, 2, "a loss of type float"),
        ({"MEASURED": "model(batch[0])"}, 1, "measure returned a Tensor; it must return a dict"),
        (
            {"BACKWARD": "step.backward(loss, count=len(y))", "NET": "net"},
            0,
            "job.model. The result is the same under strategy=single, but it is refused under",
        ),
        ({"SAMPLES": "0"}, 2, "train= is a TensorDataset without samples"),
    ],
)
def test_a_sentence_says_what_to_pass(launch, mistake, code, words):
    text = SCRIPT
    for name, part in {**GOOD, **mistake}.items():
        text = text.replace("{" + name + "}", part)
    launched = launch("--run-dir", "run", launch.script(text))
    assert launched.wait(60) == code, launched.stderr
    assert "Traceback" not in launched.stderr
    if words is None:
        assert "is a mean" not in launched.stderr
    else:
        assert launched.stderr.count(words) == 1


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda out: F.mse_loss(out, torch.zeros(4, 3)), True),
        (lambda out: F.cross_entropy(out, torch.zeros(4, dtype=torch.long)), True),
        (lambda out: F.binary_cross_entropy_with_logits(out, torch.ones(4, 3)), True),
        (lambda out: F.l1_loss(out, torch.zeros(4, 3)), True),
        (lambda out: out.mean(), True),
        (lambda out: F.cross_entropy(out, torch.zeros(4, dtype=torch.long)) * 4, False),
        (lambda out: F.mse_loss(out, torch.zeros(4, 3), reduction="sum"), False),
        (lambda out: F.cross_entropy(out, torch.zeros(4).long(), reduction="sum"), False),
        (lambda out: out.mean(1).sum(), False),
        (lambda out: out.sum(), False),
        (lambda out: torch.nn.Parameter(torch.zeros(())), False),
    ],
)
def test_a_mean_is_known_by_what_was_done_last(loss, expected):
    out = torch.randn(4, 3, requires_grad=True)
    assert is_mean(loss(out)) is expected
