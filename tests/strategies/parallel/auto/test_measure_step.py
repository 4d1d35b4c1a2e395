from collections.abc import Callable

import pytest
import torch
from torch import nn

from strategies import Parameters
from strategies.parallel.auto.measure_step import measure_step

# The second holds three quarters of a million elements.
NAMED = [
    ("first", nn.Parameter(torch.empty(250, 1000, device="meta"))),
    ("second", nn.Parameter(torch.empty(750, 1000, device="meta"))),
]
TOTAL, LARGEST = 1_000_000, 750_000
Factory = Callable[[Parameters], torch.optim.Optimizer]


def adamw(parameters: Parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.1)


def momentum(parameters: Parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def plain(parameters: Parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize(
    ("optimizer", "device_type", "state", "stepping", "element"),
    [
        # Two roots of the second moment at a time, before and after the division; and that of the
        # parameter before this one, which a name in the loop still holds.
        (adamw, "cpu", 8 * TOTAL, 8 * LARGEST + 4 * (TOTAL - LARGEST), 8),
        # All parameters together, divided in place.
        (adamw, "cuda", 8 * TOTAL, 4 * TOTAL, 4),
        (momentum, "cpu", 4 * TOTAL, 0, 0),
        (plain, "cpu", 0, 0, 0),
    ],
)
def test_what_optimizers_keep_and_make(
    optimizer: Factory, device_type: str, state: int, stepping: int, element: int
) -> None:
    sizes = measure_step(optimizer, NAMED, device_type)
    assert sizes.state_bytes == state
    assert sizes.stepping_bytes == pytest.approx(stepping, rel=0.01)
    assert sizes.stepping_element_bytes == element
