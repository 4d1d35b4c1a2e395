"""A forward that is computed again in the backward: the same gradients, and nothing moves twice."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

from strategies.modifiers.recomputation import hold_buffers_in_recomputation
from strategies.parallel.model.block_transforms import _recomputed


class Averaging(nn.Module):
    """What it computes depends on what it has seen before."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("table", torch.arange(3.0))
        self._how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x) - self.mean
        moved = 0.5 * self.mean + 0.5 * y.detach().mean(0)
        if self._how == "data":
            self.mean.data.copy_(moved)
        elif self._how == "in place":
            self.mean.copy_(moved)
        else:
            self.mean = moved
        return torch.tanh(y * moved)


BLOCKS: list[Callable[[], nn.Module]] = [
    lambda: Averaging("data"),
    lambda: Averaging("anew"),
    lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh()),
    lambda: nn.Sequential(spectral_norm(nn.Linear(3, 3)), nn.Tanh()),
    lambda: nn.Sequential(nn.Linear(3, 3), nn.InstanceNorm1d(6, track_running_stats=True)),
]


@pytest.mark.parametrize("make", BLOCKS)
def test_a_block_is_computed_again_from_where_it_was(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    truth = make()
    block = copy.deepcopy(truth)
    block.forward = _recomputed(block)  # type: ignore[method-assign]
    for _ in range(3):
        x = torch.randn(6, 3)
        # Twice in one forward: what is computed again first is what was computed last.
        for one in (truth, block):
            one(one(x).sin()).square().sum().backward()
        for mine, wanted in zip(block.parameters(), truth.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, wanted.grad, rtol=0, atol=0)
        for mine, wanted in zip(block.buffers(), truth.buffers(), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=0, atol=0)


def test_a_recomputation_of_the_model_itself_leaves_the_buffers_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3, requires_grad=True)
    for make in (*BLOCKS[:3], lambda: Averaging("in place")):
        for reentrant in (False, True):
            expected = make()
            block = copy.deepcopy(expected)
            for module in block.modules():
                hold_buffers_in_recomputation(module)
            expected(x)
            checkpoint(block, x, use_reentrant=reentrant).square().sum().backward()  # type: ignore[union-attr]
            for mine, wanted in zip(block.buffers(), expected.buffers(), strict=True):
                torch.testing.assert_close(mine, wanted)
