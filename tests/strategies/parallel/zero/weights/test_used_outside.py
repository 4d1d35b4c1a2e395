"""Parameters that a forward asks for by `parameters()`, gathered by a call of their module."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from strategies import ConfigError
from strategies.parallel.zero.weights.used_outside import (
    calls_are_known,
    gathered,
    let_forward_ask_for_parameters,
)
from strategies.torch_internals import is_recomputed_later


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)


class Reversed(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def replaced() -> nn.Module:
    module = nn.Linear(2, 2)
    module.forward = module.forward  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize(
    ("module", "known"),
    [
        (nn.Linear(2, 2), True),
        (nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh(), nn.LayerNorm(2))), True),
        (Block(), False),
        (nn.Sequential(nn.Linear(2, 2), Block()), False),
        (Reversed(nn.Linear(2, 2)), False),
        (nn.ModuleList([nn.Linear(2, 2)]), False),
        (replaced(), False),
    ],
)
def test_only_calls_in_a_known_order_are_made(module: nn.Module, known: bool) -> None:
    assert calls_are_known(module) is known


def test_each_module_is_called_once_in_its_order_and_gives_its_parameters() -> None:
    twice = nn.Linear(4, 4)
    block = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), twice), twice)
    calls: list[str] = []
    backwards: list[str] = []
    for name, module in block.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        module.register_full_backward_pre_hook(lambda *_, name=name: backwards.append(name))
    values = gathered(block)
    assert calls == ["", "0", "1", "1.0", "1.1", "1.1"]
    assert all(torch.equal(values[id(p)], p) for p in block.parameters())
    torch.stack([0 * values[id(p)].sum() for p in block.parameters()]).sum().backward()  # type: ignore[no-untyped-call]
    assert backwards == ["", "1.1", "1", "1.1", "1.0", "0"]
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())


class Penalised(nn.Module):
    """Reads parameters in its forward that a rank has not gathered, and one that it has."""

    def __init__(self, use: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.block = Block()
        self.small = nn.Parameter(torch.ones(2))
        self.use = use
        for name, parameter in self.named_parameters():
            is_whole = name == "small"
            parameter.ds_numel = parameter.numel()  # type: ignore[attr-defined]
            parameter.ds_shape = parameter.shape  # type: ignore[attr-defined]
            status = "AVAILABLE" if is_whole else "NOT_AVAILABLE"
            parameter.ds_status = SimpleNamespace(name=status)  # type: ignore[attr-defined]
            if not is_whole:
                parameter.data = torch.empty(0)

    def forward(self) -> Any:
        return self.use(self)


@pytest.mark.parametrize("bucket", [5, 1000])
@pytest.mark.parametrize(
    "use",
    [
        lambda m: sum(p.square().sum() for p in m.parameters()),
        lambda m: [p.detach().norm() for p in m.parameters()],
        lambda m: [p.norm() for p in m.block.parameters()],
        lambda m: dict(m.named_parameters())["block.inner.weight"].norm(),
    ],
)
def test_a_share_is_no_empty_parameter(use: Callable[[nn.Module], Any], bucket: int) -> None:
    model = Penalised(use)
    let_forward_ask_for_parameters(model, bucket, "zero3")
    says = r"strategy=zero3 they are gathered when it is called \(block\.inner\.weight\)"
    with pytest.raises(ConfigError, match=says):
        model()


def test_what_is_told_of_a_share_is_that_of_the_whole() -> None:
    model = Penalised(
        lambda m: (sum(p.numel() for p in m.parameters()), m.get_parameter("small").sum())
    )
    let_forward_ask_for_parameters(model, 1000, "zero3")
    count, total = model()
    assert (count, float(total.detach())) == (8, 2.0)
    assert sum(p.numel() for p in model.parameters()) == 2  # DeepSpeed asks outside


def test_without_gradients_there_are_none() -> None:
    with torch.no_grad():
        values = gathered(nn.Linear(2, 2))
    assert not any(value.requires_grad for value in values.values())


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_is_computed_anew_is_seen(reentrant: bool) -> None:
    seen: list[bool] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.append(is_recomputed_later())
        return x * 2

    assert not is_recomputed_later()
    checkpoint(forward, torch.ones(2, requires_grad=True), use_reentrant=reentrant)
    assert seen == [True]
