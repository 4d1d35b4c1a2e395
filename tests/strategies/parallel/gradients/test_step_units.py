"""The largest magnitude of each gradient, by the host's way and by that of an accelerator."""

import math

import pytest
import torch

from strategies.parallel.gradients.step_units import largest_of_each

CPU = torch.device("cpu")


@pytest.mark.parametrize("odd", [0.5, math.inf, math.nan])
def test_magnitudes_on_a_device(odd: float) -> None:
    rows = torch.arange(-6.0, 6.0).view(3, 4)
    grads = [
        rows,
        None,
        torch.zeros(0, 4),
        torch.tensor([1.0, -3.0], dtype=torch.bfloat16),
        rows[:, 1:3],  # with gaps
        torch.tensor([1.0, odd]),
        torch.tensor(-7.0),
    ]
    found = largest_of_each(grads, CPU).tolist()
    assert found[:5] + found[6:] == [6.0, -1.0, 0.0, 3.0, 5.0, 7.0]
    assert found[5] == max(odd, 1.0) or (math.isnan(odd) and math.isnan(found[5]))


def test_many_gradients_take_few_operations() -> None:
    """A launch each would cost a GPU more than the look does."""
    grads = [torch.randn(3, 5) for _ in range(300)]
    with torch.profiler.profile() as profile:
        largest_of_each(grads, CPU)
    names = [event.name for event in profile.events() if event.cpu_parent is None]
    assert names.count("aten::_foreach_norm") == 1
    assert len([name for name in names if name.startswith("aten::")]) < 300 / 2
