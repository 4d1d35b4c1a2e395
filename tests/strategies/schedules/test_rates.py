"""The rates of parameter groups, from schedules and from torch's own schedulers."""

import math
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from strategies import Rates, Span, schedules, torch_schedule

SPAN = Span(total_steps=120, steps_per_epoch=10)


def optimizer(kind: Any = torch.optim.SGD, **options: Any) -> torch.optim.Optimizer:
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(2))], "name": "body"},
        {"params": [torch.nn.Parameter(torch.zeros(2))], "name": "head", "lr": 0.04},
    ]
    return kind(groups, **{"lr": 0.2, **options})


GROUPS = optimizer().param_groups


def test_one_schedule_for_all_groups_or_one_for_each() -> None:
    a, b = schedules.constant(0.5), schedules.linear()
    assert Rates(a, GROUPS, SPAN).at(3, 1.0) == [{"lr": 0.1}, {"lr": 0.02}]
    assert Rates([a, b], GROUPS, SPAN).at(0, 0.5) == [{"lr": 0.05}, {"lr": 0.02}]
    assert Rates({"head": a, "body": b}, GROUPS, SPAN).at(0, 1.0) == [{"lr": 0.2}, {"lr": 0.02}]
    assert Rates([a, b], GROUPS, SPAN).text == "constant(0.5); linear()"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ([schedules.constant()] * 3, "3 schedules are given, and the optimizer has 2"),
        ({"head": schedules.constant()}, "named \\['body', 'head'\\]"),
        (lambda step: 0.1, "schedules.function"),
        (0.1, "is no schedule"),
        ([0.1, 0.2], "is no schedule"),
        (lr_scheduler.StepLR(optimizer(), 3), "torch_schedule"),
        (schedules.warmup(20).then(schedules.cosine(), at=10), "overlaps"),
        (schedules.function(lambda step, span: 1e-3), "bare number"),
    ],
)
def test_what_is_no_schedule_is_refused_before_the_run(rule: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Rates(rule, GROUPS, SPAN)


SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 30),
    "cosine restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 25, 2),
    "one cycle, momentum too": lambda o: lr_scheduler.OneCycleLR(o, [0.2, 0.04], total_steps=121),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, 7, cycle_momentum=False),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 10), lr_scheduler.ExponentialLR(o, 0.9)], [10]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
def test_a_scheduler_of_torch_gives_what_it_gives(name: str) -> None:
    real = optimizer(momentum=0.9)
    rates = Rates(torch_schedule(SCHEDULERS[name]), real.param_groups, SPAN)
    scheduler = SCHEDULERS[name](real)
    expected = []
    for _ in range(120):
        expected.append([(g["lr"], g["momentum"]) for g in real.param_groups])
        real.step()
        scheduler.step()
    # In order, then again from the middle, as after a resume or a jump back.
    for step in (*range(120), 40, 41, 119, 0):
        found = [(g["lr"], g.get("momentum", 0.9)) for g in rates.at(step, 1.0)]
        assert found == expected[step]
    assert [g["lr"] for g in rates.at(7, 0.5)] == [0.5 * lr for lr, _ in expected[7]]


def test_a_scheduler_that_counts_epochs_is_stepped_by_epochs() -> None:
    rates = Rates(torch_schedule(SCHEDULERS["step"], every="1 epoch"), GROUPS, SPAN)
    one = Rates(torch_schedule(lambda o: lr_scheduler.StepLR(o, 2), every="1 epoch"), GROUPS, SPAN)
    assert [rates.at(s, 1.0)[0]["lr"] for s in (0, 119)] == [0.2, 0.2]
    assert [one.at(s, 1.0)[0]["lr"] for s in (19, 20, 40)] == pytest.approx([0.2, 0.02, 0.002])


def test_the_optimizer_itself_is_left_alone() -> None:
    real = optimizer(torch.optim.AdamW)
    before = [dict(group) for group in real.param_groups]
    rates = Rates(
        torch_schedule(lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=121)),
        real.param_groups,
        SPAN,
    )
    assert [g["betas"] for g in rates.at(60, 1.0)] != [g["betas"] for g in before]
    assert [g["lr"] for g in real.param_groups] == [0.2, 0.04]
    assert [set(group) for group in real.param_groups] == [set(group) for group in before]


def tutorial(epoch: int) -> float:
    """A warm-up by factors, then a cosine between two rates: the rate is 1e-4 where it peaks."""
    if epoch < 5:
        return (epoch + 1) / 5
    return 1e-3 + 0.5 * (1e-2 - 1e-3) * (1 + math.cos(math.pi * (epoch - 5) / 45))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda o: lr_scheduler.ReduceLROnPlateau(o), "plateau=ReduceOnPlateau"),
        (lambda o: lr_scheduler.StepLR(optimizer(), 3), "on the optimizer that it is given"),
        (lambda o: None, "returned a NoneType"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=90), "refuses its step 91"),
        (lambda o: lr_scheduler.LambdaLR(o, tutorial), "0.01 at its step 5, .* an absolute rate"),
        (lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.01), "an absolute rate"),
    ],
)
def test_schedulers_that_cannot_be_driven_by_the_step(build: Any, words: str) -> None:
    groups = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2).param_groups
    with pytest.raises(ValueError, match=words):
        Rates(torch_schedule(build), groups, SPAN)


def test_a_scheduler_that_has_an_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="lambda optimizer"):
        torch_schedule(lr_scheduler.StepLR(optimizer(), 3))  # type: ignore[arg-type]
