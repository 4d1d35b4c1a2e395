"""Numbers that a forward carries on in plain attributes are told, and no others."""

from typing import Any

import torch
from torch import nn

from strategies.modifiers.moving_numbers import LOOKED_AT, MovingNumbers
from strategies.parallel.calls.model_view import ModelCalls


class Part(nn.Module):
    calls = 0
    """Of the class, until a forward counts it up."""

    def __init__(self) -> None:
        super().__init__()
        self.average, self.length, self.temperature, self.size = 1.0, 0, 1.0, 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.average = 0.9 * self.average + 0.1 * float(x.mean())
        self.length = len(x)
        return x / self.temperature


def told(model: Any, loop: Any, count: int) -> list[str]:
    numbers, sentences = MovingNumbers(model), list[str]()
    for number in range(count):
        numbers.begin_micro_batch()
        loop(number)
        numbers.end_micro_batch()
        sentences += numbers.end_step()
    return sentences


def test_a_counter_and_an_average_are_named_once() -> None:
    model = nn.Sequential(Part(), nn.ReLU())
    (sentence,) = told(model, lambda n: model(torch.full((2,), float(n))), LOOKED_AT + 3)
    assert sentence.startswith("the model's forward updates 0.average, 0.calls, a plain number: no")


def test_what_the_loop_sets_or_the_samples_decide_is_not() -> None:
    net = Part()
    model: Any = ModelCalls(net, lambda call, args, kwargs: call.function(*args, **kwargs)).view

    def loop(number: int) -> None:
        model.temperature = 1.0 + number
        net.length = 3 + number // 2

    assert told(model, loop, LOOKED_AT + 1) == []
