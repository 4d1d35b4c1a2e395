"""What torch rounds when an optimizer loads its state is put back as it was saved."""

import copy
from typing import Any

import pytest
import torch

from launcher.bridges.rounded_state import restore_rounded


class InFloat32(torch.optim.Optimizer):
    """Keeps float32 state for any weights, and an integer."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                mean = state.setdefault("mean", torch.zeros(p.shape, dtype=torch.float32))
                mean.add_(p.grad.float() / 3)
                state["seen"] = state.get("seen", torch.zeros((), dtype=torch.int64)) + 1


def trained(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3).to(dtype)
    # In groups of another order than the model's.
    optimizer = InFloat32([{"params": [model.bias]}, {"params": [model.weight]}])
    model(torch.ones(2, 3, dtype=dtype)).square().sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_it_is_as_it_was_saved(dtype: torch.dtype) -> None:
    model, optimizer = trained(dtype)
    saved = copy.deepcopy(optimizer.state_dict())
    other, its_optimizer = trained(dtype)
    its_optimizer.load_state_dict(saved)
    before = its_optimizer.state[other.weight]
    # Else there is nothing to do any more.
    assert before["mean"].dtype == before["seen"].dtype == dtype
    restore_rounded(its_optimizer, saved)
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        found, truth = its_optimizer.state[its], optimizer.state[mine]
        assert (found["mean"].dtype, found["seen"].dtype) == (torch.float32, torch.int64)
        assert torch.equal(found["mean"], truth["mean"])
        assert torch.equal(found["seen"], truth["seen"])


def test_what_an_optimizer_keeps_itself_in_the_weights_dtype_stays() -> None:
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    restore_rounded(optimizer, saved)
    state = optimizer.state[weight]
    assert (state["exp_avg"].dtype, state["step"].dtype) == (torch.bfloat16, torch.float32)
