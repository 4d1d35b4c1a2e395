"""Tensors that a model keeps outside of its parameters and buffers, where it is built by name."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import nn

from strategies import Blueprint, BuildOptions, ConfigError, Ranks, precision_for
from strategies.parallel.model.build import build_model
from strategies.parallel.model.plain_tensors import plain_tensors

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"), host_group=None)  # type: ignore[arg-type]


class Pair(NamedTuple):
    number: int
    table: torch.Tensor


@dataclass(frozen=True)
class Settings:
    scale: torch.Tensor


@functools.lru_cache
def cached(length: int) -> tuple[torch.Tensor, int]:
    return torch.arange(length).float() / length, length


class Kept(nn.Module):
    """Everywhere where a constructor may leave a tensor."""

    def __init__(self) -> None:
        super().__init__()
        rates = 1.0 / torch.arange(1, 5).float()
        self.register_buffer("rates", rates, persistent=False)
        self.original = self.rates
        self.linear = nn.Linear(3, 3)
        self.linear.offset = torch.full((3,), 0.5)
        self.tables = [torch.ones(2), {"a": torch.zeros(2), "b": 3}]
        self.pair = Pair(1, torch.linspace(0, 1, 3))
        self.settings = Settings(torch.tensor(2.0))
        self.noise = torch.randn(4)
        self.again = self.noise
        self.cached, self.length = cached(4)
        self.outside = [nn.Linear(2, 2)]  # unknown to the model, as plain Python has it
        shift = torch.tensor([1.0, 2.0])
        self.activation = lambda x: x + shift
        self.bound = functools.partial(torch.clamp, max=torch.tensor(0.5))
        self.missing = None


def built(model: type[nn.Module], seed: int = 3) -> nn.Module:
    return build_model(
        Blueprint(
            model=model,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            precision=precision_for("fp32", "cpu"),
            max_grad_norm=None,
            seed=seed,
            ranks=ALONE,
            options=BuildOptions(init="by-name"),
        )
    )


def test_they_are_filled_wherever_they_are() -> None:
    model, again, other = built(Kept), built(Kept), built(Kept, seed=4)
    assert list(plain_tensors(model)) == []
    assert model.original is model.rates
    assert model.rates.tolist() == pytest.approx([1.0, 0.5, 1 / 3, 0.25])
    assert model.linear.offset.tolist() == [0.5] * 3
    assert model.tables[0].tolist() == [1.0, 1.0]
    assert model.tables[1]["a"].tolist() == [0.0, 0.0]
    assert model.tables[1]["b"] == 3
    assert isinstance(model.pair, Pair)
    assert model.pair.table.tolist() == [0.0, 0.5, 1.0]
    assert float(model.settings.scale) == 2.0
    assert model.again is model.noise
    assert torch.equal(model.noise, again.noise)
    assert not torch.equal(model.noise, other.noise)
    assert model.activation(torch.zeros(2)).tolist() == [1.0, 2.0]
    assert float(model.bound(torch.tensor(3.0))) == 0.5
    assert isinstance(model.outside[0].weight, nn.Parameter)
    assert model.outside[0](torch.ones(1, 2)).shape == (1, 2)
    # What the factory has left in a function's cache is computed anew.
    assert model.cached.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert cached(4)[0].tolist() == [0.0, 0.25, 0.5, 0.75]


class InList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.weights = [self.linear.weight]


class LookedUp(InList):
    """What the sentence advises."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.linear.weight


class InSet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.inner = nn.Module()
        self.inner.tables = {torch.ones(3)}


class AsBuffer(InSet):
    """What the sentence advises."""

    def __init__(self) -> None:
        super().__init__()
        del self.inner.tables
        self.inner.register_buffer("table", torch.ones(3), persistent=False)


@pytest.mark.parametrize(
    ("model", "sentence", "advised"),
    [
        (InList, r"weights\[0\] holds the parameter linear.weight outside", LookedUp),
        (InSet, r"inner.tables holds a tensor of shape \(3,\) where it cannot be", AsBuffer),
    ],
)
def test_what_cannot_be_filled_is_refused_by_name(
    model: type[nn.Module], sentence: str, advised: type[nn.Module]
) -> None:
    with pytest.raises(ConfigError, match=f"{sentence}.*as-built"):
        built(model)
    found = built(advised)
    assert not any(t.is_meta for t in [*found.parameters(), *found.buffers()])
