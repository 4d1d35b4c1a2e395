from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from strategies import ConfigError
from strategies.parallel.calls.unused_parameters import (
    marks,
    may_be_untouched,
    refuse_untouched,
    untouched,
)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(3, 3)
        self.spare = nn.Linear(3, 3)

    def names(self) -> dict[int, str]:
        return {id(p): name for name, p in self.named_parameters()}


def test_what_the_loss_does_not_depend_on() -> None:
    model = Two()
    x = torch.ones(2, 3)
    assert untouched(model.used(x).sum(), model.names()) == ["spare.weight", "spare.bias"]
    assert untouched(model.spare(model.used(x)).sum(), model.names()) == []
    zero = 0 * sum(p.sum() for p in model.spare.parameters())
    assert untouched(model.used(x).sum() + zero, model.names()) == []


def test_a_loss_may_be_a_parameter_itself() -> None:
    one, other = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(3))
    assert untouched(one, {id(one): "one", id(other): "other"}) == ["other"]
    assert untouched(one, {id(one): "one"}) == []


def test_the_graph_tells_the_same_after_the_backward() -> None:
    model = Two()
    loss = model.used(torch.ones(2, 3)).sum()
    loss.backward()
    assert untouched(loss, model.names()) == ["spare.weight", "spare.bias"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_glance_at_the_gradients_sees_what_was_left_out(kept: bool) -> None:
    model = Two()
    x = torch.ones(2, 3)
    for whole in (True, True, False, True):
        loss = model.spare(model.used(x)).sum() if whole else model.used(x).sum()
        before = marks(model.named_parameters())
        loss.backward()
        assert may_be_untouched(before, marks(model.named_parameters())) is not whole
        if not kept:
            model.zero_grad()


class Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> None:
        return None


def test_a_gradient_that_does_not_come_is_a_matter_for_the_graph() -> None:
    weight = nn.Parameter(torch.ones(3))
    before = marks([("weight", weight)])
    loss = Nothing.apply(weight).sum()  # type: ignore[no-untyped-call]
    loss.backward()
    assert may_be_untouched(before, marks([("weight", weight)]))
    assert untouched(loss, {id(weight): "weight"}) == []


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_is_not_mistaken(reentrant: bool) -> None:
    model = Two()
    x = torch.ones(2, 3, requires_grad=True)
    hidden = checkpoint(model.used, x, use_reentrant=reentrant)
    assert untouched(model.spare(hidden).sum(), model.names()) == []


def test_the_sentence_names_them() -> None:
    model = Two()
    with pytest.raises(ConfigError, match=r"step 3: .*spare.weight, spare.bias.*requires_grad"):
        refuse_untouched(model.used(torch.ones(1, 3)).sum(), model.names(), where="step 3")
