"""When the buckets of DistributedDataParallel are laid, and in which order; without ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from strategies.parallel.gradients.bucket_order import BucketOrder, orders_of


class Reducer:
    """What is called of DDP's."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def prepare_for_backward(self, outputs: list[Any]) -> None:
        self.calls.append("prepare")

    def _rebuild_buckets(self) -> bool:
        self.calls.append("rebuild")
        return True


class Net(nn.Module):
    """Used in another order than it is made in; a part is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first, self.frozen = (nn.Linear(2, 2, bias=False) for _ in range(3))
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(torch.tanh(self.first(self.frozen(x))))
        return out


def wrapper(**other: Any) -> Any:
    given: dict[str, Any] = {
        "module": Net(),
        "parameters_to_ignore": set(),
        "require_backward_grad_sync": True,
        "static_graph": False,
        "find_unused_parameters": False,
        "_comm_hooks": [],
        "reducer": Reducer(),
    }
    return SimpleNamespace(**{**given, **other})


NAMES = ["last.weight", "first.weight"]


def test_the_order_is_that_of_the_first_summed_backward() -> None:
    one = wrapper(require_backward_grad_sync=False)
    order = BucketOrder(one)
    one.module(torch.ones(1, 2)).sum().backward()
    assert order.names == []
    one.require_backward_grad_sync = True
    one.module(torch.ones(1, 2)).sum().backward()
    assert order.names == NAMES
    one.module.first(torch.ones(1, 2)).sum().backward()
    assert order.names == NAMES
    order.lay(NAMES[::-1])  # a restore in the middle of a start
    assert one.reducer.calls == []


def test_buckets_are_laid_by_zeros_in_the_order_of_the_checkpoint() -> None:
    one = wrapper(require_backward_grad_sync=False)
    came: list[torch.Tensor] = []
    hooks = [p.register_hook(lambda g: came.append(g)) for p in (one.module.first.weight,)]
    order = BucketOrder(one)
    order.lay(NAMES)
    assert one.reducer.calls == ["prepare", "rebuild"]
    assert order.names == NAMES
    assert one.require_backward_grad_sync is False
    assert [float(g.abs().sum()) for g in came] == [0.0]
    assert all(p.grad is None for p in one.module.parameters())
    del hooks


@pytest.mark.parametrize(
    ("other", "names"),
    [
        ({"static_graph": True}, NAMES),
        ({"find_unused_parameters": True}, NAMES),
        ({"_comm_hooks": ["compressed"]}, NAMES),
        ({"reducer": SimpleNamespace()}, NAMES),
        ({}, ["last.weight"]),
        ({}, [*NAMES, "more.weight"]),
        ({}, []),
    ],
)
def test_what_is_not_known_is_left_alone(other: dict[str, Any], names: list[str]) -> None:
    one = wrapper(**other)
    BucketOrder(one).lay(names)
    assert getattr(one.reducer, "calls", []) == []


def test_a_script_that_steps_where_a_gradient_comes_sees_no_zeros() -> None:
    one = wrapper()
    came: list[torch.Tensor] = []
    one.module.last.weight.register_post_accumulate_grad_hook(came.append)
    BucketOrder(one).lay(NAMES)
    assert (came, one.reducer.calls) == ([], [])


def test_two_ranks_have_one_sum() -> None:
    assert orders_of([wrapper()], 2) == []
    assert len(orders_of([wrapper(), None], 3)) == 1
