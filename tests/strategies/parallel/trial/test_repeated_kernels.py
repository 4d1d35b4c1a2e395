"""Kernels whose result varies are found, with the module; others are left as they were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from strategies.parallel.trial import repeated_kernels
from strategies.parallel.trial.repeated_kernels import RepeatedKernels

_NAME = "relaunch_tests::varies"
_calls = [0]


@pytest.fixture(scope="module", autouse=True)
def varies() -> Iterator[None]:
    """Define an operation that adds its number of calls in a million to its input."""
    with torch.library._scoped_library("relaunch_tests", "FRAGMENT") as library:
        library.define("varies(Tensor x) -> Tensor")

        def kernel(x: torch.Tensor) -> torch.Tensor:
            _calls[0] += 1
            return x + _calls[0] * 1e-6

        library.impl("varies", kernel, "CompositeExplicitAutograd")
        yield


def noisy(x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.ops.relaunch_tests.varies(x)
    return found


class NoisyForward(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + noisy(x.detach())


class _NoisyGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return noisy(grads[0]) * 2


class NoisyBackward(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        apply: Any = _NoisyGradient.apply
        out: torch.Tensor = apply(x)
        return out


class Ordinary(nn.Module):
    """Of what changes in a forward, draws, looks up, copies and takes views."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 8)
        self.norm = nn.BatchNorm1d(8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        self.count += 1
        x = self.norm(self.table(numbers).transpose(1, 2)).transpose(1, 2)
        x, _ = self.lstm(x)
        x, _ = self.attention(x, x, x)
        x = F.dropout(x, 0.2)
        x[:, 0] *= 2.0
        return x.new_empty(3, 3).fill_(1.0).sum() * 0 + x.sum() / torch.tensor(float("nan"))


def trained(model: nn.Module, x: torch.Tensor, *, is_checked: bool) -> str | None:
    torch.manual_seed(3)
    check = RepeatedKernels(model) if is_checked else None
    if check is not None:
        check.begin()
    torch.autograd.backward(model(x).sum())
    return None if check is None else check.end()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (NoisyForward(), "relaunch_tests.varies.default in the forward of 1"),
        (NoisyBackward(), "relaunch_tests.varies.default in the backward of"),
    ],
)
def test_what_varies_is_found(layer: nn.Module, words: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 2))
    found = trained(model, torch.randn(5, 4), is_checked=True)
    assert found is not None
    assert found.startswith(words)
    before = _calls[0]
    model(torch.randn(5, 4))
    assert _calls[0] <= before + 1, "it is over"


def test_what_is_ordinary_computes_the_same_with_and_without() -> None:
    torch.manual_seed(0)
    plain, checked = Ordinary(), Ordinary()
    checked.load_state_dict(plain.state_dict())
    x = torch.randint(0, 7, (3, 5))
    trained(plain, x, is_checked=False)
    assert trained(checked, x, is_checked=True) is None
    for (name, one), other in zip(
        plain.state_dict().items(), checked.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    for (name, a), b in zip(plain.named_parameters(), checked.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad.nan_to_num(), b.grad.nan_to_num()), name


def test_a_backward_of_torch_is_named_by_its_module() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    check = RepeatedKernels(model)
    seen = []
    check.begin()
    loss = model(torch.randn(2, 4)).sum()
    original = check._where
    check._where = lambda: seen.append(original()) or seen[-1]  # type: ignore[method-assign, func-returns-value]
    torch.autograd.backward(loss)
    check.end()
    assert "in the backward of 1" in seen
    assert "in the backward of 0" in seen


@pytest.mark.parametrize(
    ("name", "is_repeated"),
    [
        ("_scaled_dot_product_efficient_attention", False),
        ("_scaled_dot_product_efficient_attention_backward", True),
        ("_scaled_dot_product_flash_attention_backward", True),
        ("_scaled_dot_product_cudnn_attention_backward", True),
        ("bernoulli", False),
    ],
)
def test_a_backward_draws_nothing(name: str, is_repeated: bool) -> None:
    """It gets the forward's seed. Some add by atomic operations, as attention in fp32 on a GPU."""
    assert repeated_kernels._is_repeated(getattr(torch.ops.aten, name).default) is is_repeated
