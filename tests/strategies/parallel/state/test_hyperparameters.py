import json
import math
from typing import Any

import pytest
import torch

from strategies import ConfigError
from strategies.parallel.state.hyperparameters import (
    current_hyperparameters,
    merge,
    put_back,
    put_in_force,
    to_json,
)


def groups(lr: float, decay: float, **more: object) -> list[dict[str, Any]]:
    common = {"lr": lr, "betas": (0.9, 0.99), **more}
    return [
        {"params": [torch.zeros(2)], "weight_decay": decay, **common},
        {"params": [torch.zeros(2)], "weight_decay": 0.0, **common},
    ]


NAMES = [["a.weight"], ["a.bias"]]


def resumed(
    built: list[dict[str, Any]], requested: list[dict[str, Any]], left: list[dict[str, Any]]
) -> list[str]:
    """Put what `left` has, saved for a script that asked for `requested`, into `built`."""
    saved = to_json(NAMES, current_hyperparameters(requested), current_hyperparameters(left))
    asked = current_hyperparameters(built)
    values, changes = merge(NAMES, asked, json.loads(json.dumps(saved, allow_nan=False)))
    put_back(built, values)
    return changes


def test_what_was_in_force_goes_on_and_the_scripts_changes_win() -> None:
    built = groups(1e-3, 0.2)
    changes = resumed(built, groups(1e-3, 0.1), groups(5e-4, 0.1))
    assert built[0]["lr"] == 5e-4
    assert built[0]["weight_decay"] == 0.2
    assert changes == ["weight_decay of parameter group 0: 0.1 -> 0.2"]


def test_groups_are_found_by_name_not_by_number() -> None:
    asked = current_hyperparameters(groups(1e-3, 0.1))
    saved: Any = to_json(NAMES, asked, asked)
    values, changes = merge(NAMES[::-1], asked[::-1], saved)
    assert [v["weight_decay"] for v in values] == [0.0, 0.1]
    assert changes == []


def test_values_keep_their_type() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    put_back(optimizer.param_groups, current_hyperparameters(optimizer.param_groups))
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    put_in_force(optimizer.param_groups, [{"betas": [0.8, 0.9]}])
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    parameter.grad = torch.ones(2)
    optimizer.step()


def test_what_the_optimizer_made_in_a_step_comes_back() -> None:
    built = groups(1e-3, 0.1)
    left = groups(1e-3, 0.1, step=6, d=torch.tensor(3, dtype=torch.int64), is_on=True)
    assert resumed(built, groups(1e-3, 0.1), left) == []
    assert [(g["step"], g["is_on"]) for g in built] == [(6, True)] * 2
    assert (built[0]["d"].dtype, int(built[0]["d"])) == (torch.int64, 3)


def test_what_the_script_no_longer_asks_for_stays_away() -> None:
    built = groups(1e-3, 0.1)
    resumed(built, groups(1e-3, 0.1, nesterov=True), groups(1e-3, 0.1, nesterov=True))
    assert "nesterov" not in built[0]


def test_what_is_not_finite_can_be_asked_for() -> None:
    built = groups(1e-3, 0.1, growth_rate=math.inf)
    changes = resumed(built, groups(1e-3, 0.1, growth_rate=math.inf), groups(1e-3, 0.1))
    assert changes == []
    built = groups(1e-3, 0.1, growth_rate=2.0)
    changes = resumed(built, groups(1e-3, 0.1, growth_rate=math.inf), groups(1e-3, 0.1))
    assert changes[0] == "growth_rate of parameter group 0: inf -> 2.0"


def test_a_tensor_that_groups_share_is_shared_after_a_resume() -> None:
    built = groups(1e-3, 0.1, running=torch.tensor(0.0))
    resumed(
        built,
        groups(1e-3, 0.1, running=torch.tensor(0.0)),
        groups(1e-3, 0.1, running=torch.tensor(4.0)),
    )
    assert built[0]["running"] is built[1]["running"]
    assert float(built[0]["running"]) == 4.0


def test_a_rate_that_is_a_tensor_stays_one_and_is_not_shared() -> None:
    built = groups(1e-3, 0.1)
    built[0]["lr"] = built[1]["lr"] = torch.tensor(1e-3)
    put_in_force(built, [{"lr": 0.5}, {"lr": 0.25}])
    assert [float(g["lr"]) for g in built] == [0.5, 0.25]
    assert all(isinstance(g["lr"], torch.Tensor) for g in built)


def test_what_is_only_described_stays_the_scripts() -> None:
    built = groups(1e-3, 0.1, scale=math.sqrt)
    assert resumed(built, groups(1e-3, 0.1, scale=math.sqrt), groups(1e-3, 0.1)) == []
    assert built[0]["scale"] is math.sqrt


def test_groups_of_an_earlier_release_go_on() -> None:
    """Tuples were lists there, tensors were numbers, other objects their repr."""
    asked = {"lr": 1e-3, "betas": [0.9, 0.99], "scale": "<built-in function sqrt>", "t": 0.0}
    saved = [
        {"parameters": NAMES[0], "requested": asked, "current": {**asked, "lr": 5e-4, "t": 2.0}},
        {"parameters": NAMES[1], "requested": asked, "current": {**asked, "step": 6}},
    ]
    built = groups(1e-3, 0.1, scale=math.sqrt, t=torch.tensor(0.0))
    built[1]["t"] = torch.tensor(0.0)
    built[1]["betas"] = (0.5, 0.99)
    values, changes = merge(NAMES, current_hyperparameters(built), saved)
    put_back(built, values)
    assert (built[0]["lr"], built[0]["betas"]) == (5e-4, (0.9, 0.99))
    assert (float(built[0]["t"]), built[0]["scale"]) == (2.0, math.sqrt)
    assert built[1]["step"] == 6
    assert changes == ["betas of parameter group 1: [0.9, 0.99] -> (0.5, 0.99)"]


def test_a_group_that_the_script_adds_later_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    optimizer.add_param_group({"params": [torch.ones(1, requires_grad=True)]})
    with pytest.raises(ConfigError, match="was made with 1 parameter groups and has 2 now"):
        put_in_force(optimizer.param_groups, [{"lr": 0.5}])
