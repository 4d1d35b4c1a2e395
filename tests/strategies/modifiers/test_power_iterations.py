"""Spectral norm's vectors: each rank is where one that computes all micro-batches would be."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as by_hook
from torch.utils.checkpoint import checkpoint

from strategies.modifiers.power_iterations import PowerIterations

MODELS: list[Callable[[], nn.Module]] = [
    lambda: parametrizations.spectral_norm(nn.Linear(5, 4)),
    lambda: parametrizations.spectral_norm(nn.Linear(5, 4), n_power_iterations=3),
    lambda: by_hook(nn.Linear(5, 4)),
    lambda: by_hook(nn.Linear(5, 4), n_power_iterations=2),
]


def shifted(model: nn.Module) -> None:
    """As an optimizer's step would."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter += 0.1 * torch.sin(torch.arange(parameter.numel()) + number).view_as(
                parameter
            )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_every_rank_is_where_one_would_be(model: Callable[[], nn.Module], world_size: int) -> None:
    torch.manual_seed(0)
    truth = model()
    ranks = [copy.deepcopy(truth) for _ in range(world_size)]
    followers = [PowerIterations(one, world_size) for one in ranks]
    x, count = torch.randn(3, 5), 5
    for _ in range(3):
        expected = [truth(x) for _ in range(count)]
        for rank, (one, follower) in enumerate(zip(ranks, followers, strict=True)):
            follower.begin_step(count)
            for turn in range(-(-count // world_size)):
                index = turn * world_size + rank
                is_padding = index >= count
                follower.begin_micro_batch(index if not is_padding else 0, is_padding=is_padding)
                found = one(x)
                if not is_padding:
                    torch.testing.assert_close(found, expected[index], rtol=0, atol=0)
                found.sum().backward()
                follower.end_micro_batch()
            follower.end_step()
            for name, value in truth.named_buffers():
                assert torch.equal(dict(one.named_buffers())[name], value), (rank, name)
        for one in (truth, *ranks):
            shifted(one)


@pytest.mark.parametrize("model", MODELS)
def test_a_recomputation_moves_nothing(model: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    truth = model()
    one = copy.deepcopy(truth)
    follower = PowerIterations(one, 1)
    x = torch.randn(3, 5, requires_grad=True)
    truth(x).square().sum().backward()
    follower.begin_step(1)
    follower.begin_micro_batch(0, is_padding=False)
    checkpoint(one, x, use_reentrant=False).square().sum().backward()  # type: ignore[union-attr]
    follower.end_micro_batch()
    follower.end_step()
    for (name, mine), wanted in zip(one.named_parameters(), truth.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad, msg=name)
    for mine, wanted in zip(one.buffers(), truth.buffers(), strict=True):
        assert torch.equal(mine, wanted)


def test_a_weight_used_twice_is_not_taken_for_computed_in_order() -> None:
    """How often a micro-batch uses it is known after the first, too late for the ranks' first."""
    torch.manual_seed(0)
    layer = parametrizations.spectral_norm(nn.Linear(4, 4))
    model = nn.Sequential(layer, layer)
    truth, ranks = copy.deepcopy(model), [copy.deepcopy(model) for _ in range(2)]
    followers = [PowerIterations(one, 2) for one in ranks]
    x = torch.randn(3, 4)
    for step in range(2):
        for one in ranks:
            if step:
                one.load_state_dict(truth.state_dict())  # to see the second step by itself
        for _ in range(4):
            truth(x)
        for rank, (one, follower) in enumerate(zip(ranks, followers, strict=True)):
            follower.begin_step(4)
            for index in (rank, rank + 2):
                follower.begin_micro_batch(index, is_padding=False)
                one(x)
                follower.end_micro_batch()
            follower.end_step()
            assert not follower.owns(one[0].parametrizations.weight[0], "_u")  # type: ignore
            same = [torch.equal(a, b) for a, b in zip(one.buffers(), truth.buffers(), strict=True)]
            assert step == 0 or all(same)


def test_outside_of_a_step_torch_moves_them() -> None:
    truth = parametrizations.spectral_norm(nn.Linear(4, 4))
    one = copy.deepcopy(truth)
    PowerIterations(one, 2)
    for model in (truth, one):
        model(torch.ones(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), truth.buffers(), strict=True))
