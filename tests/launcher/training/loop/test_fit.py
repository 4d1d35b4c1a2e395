"""What a loss of `Run.fit` may return."""

import pytest
import torch

from launcher.training.loop.fit import require_pair
from strategies import ConfigError


@pytest.mark.parametrize("returned", [(torch.ones(()), 4), [torch.ones(()), torch.tensor(4)]])
def test_a_sum_and_a_count(returned):
    assert require_pair(returned) == tuple(returned)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (torch.ones(()), "loss= returned a Tensor; it must return a pair"),
        (None, "loss= returned a NoneType"),
        ((torch.ones(()), 4, 5), "loss= returned a tuple"),
        (torch.ones(2), "loss= returned a Tensor"),
    ],
)
def test_anything_else_is_told(returned, says):
    with pytest.raises(ConfigError, match=says):
        require_pair(returned)
