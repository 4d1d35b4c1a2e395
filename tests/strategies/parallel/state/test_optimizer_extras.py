"""Attributes and shared state of an optimizer come back, and go back."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from strategies.parallel.state.optimizer_extras import extras_of, plain_attributes, put_back_extras
from strategies.parallel.state.typed_values import UnsavableError


def made(warmup: int = 5) -> Any:
    optimizer: Any = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.num_steps, optimizer.warmup, optimizer.is_ready = 0, warmup, False
    optimizer.helper = object()
    return optimizer


def saved_after(steps: int) -> Any:
    optimizer = made()
    built = plain_attributes(optimizer)
    optimizer.num_steps, optimizer.is_ready = steps, True
    optimizer.state["all"], optimizer.state[3] = {"count": steps}, (0.5, None)
    return json.loads(json.dumps(extras_of(optimizer, built)))


def test_what_steps_have_changed_comes_back() -> None:
    saved, fresh = saved_after(4), made()
    put_back_extras(fresh, plain_attributes(fresh), saved)
    assert (fresh.num_steps, fresh.warmup, fresh.is_ready) == (4, 5, False)
    assert fresh.state["all"] == {"count": 4}
    assert fresh.state[3] == (0.5, None)


def test_what_the_script_has_changed_is_the_scripts() -> None:
    saved, fresh = saved_after(4), made(warmup=9)
    fresh.num_steps = 100
    put_back_extras(fresh, plain_attributes(fresh), saved)
    assert (fresh.num_steps, fresh.warmup) == (100, 9)


def test_a_run_that_goes_back_takes_back_what_has_changed_since() -> None:
    saved, live = saved_after(0), made()
    built = plain_attributes(live)
    live.num_steps = 7
    put_back_extras(live, built, saved)
    assert live.num_steps == 0


def test_a_checkpoint_of_an_earlier_release_has_none() -> None:
    fresh = made()
    put_back_extras(fresh, plain_attributes(fresh), {})
    assert fresh.num_steps == 0


def test_shared_state_that_cannot_be_saved_is_named() -> None:
    optimizer = made()
    optimizer.state["noise"] = object()
    with pytest.raises(UnsavableError, match=r"SGD.state\['noise'\] is a object"):
        extras_of(optimizer, {})
