import torch

from strategies.hyperparameters import current_hyperparameters, merge, put_in_force, to_json


def groups(lr: float, decay: float) -> list[dict[str, object]]:
    return [
        {"params": [1], "lr": lr, "betas": (0.9, 0.99), "weight_decay": decay},
        {"params": [2], "lr": lr, "betas": (0.9, 0.99), "weight_decay": 0.0},
    ]


NAMES = [["a.weight"], ["a.bias"]]


def test_what_was_in_force_goes_on_and_the_scripts_changes_win() -> None:
    requested = current_hyperparameters(groups(1e-3, 0.1))
    current = current_hyperparameters(groups(5e-4, 0.1))
    saved = to_json(NAMES, requested, current)
    asked_now = current_hyperparameters(groups(1e-3, 0.2))
    values, changes = merge(NAMES, asked_now, saved)  # type: ignore[arg-type]
    assert values[0]["lr"] == 5e-4
    assert values[0]["weight_decay"] == 0.2
    assert changes == ["weight_decay of parameter group 0: 0.1 -> 0.2"]


def test_groups_are_found_by_name_not_by_number() -> None:
    saved = to_json(
        NAMES,
        current_hyperparameters(groups(1e-3, 0.1)),
        current_hyperparameters(groups(1e-3, 0.1)),
    )
    values, changes = merge(
        NAMES[::-1],
        current_hyperparameters(groups(1e-3, 0.1)[::-1]),
        saved,  # type: ignore[arg-type]
    )
    assert [v["weight_decay"] for v in values] == [0.0, 0.1]
    assert changes == []


def test_values_keep_their_type() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    values = current_hyperparameters(optimizer.param_groups)
    assert values[0]["betas"] == [0.9, 0.999]
    put_in_force(optimizer.param_groups, values)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    parameter.grad = torch.ones(2)
    optimizer.step()
