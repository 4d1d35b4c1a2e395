"""Small tensors that an optimizer keeps on a GPU come to the host in one copy; one is pretended."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from strategies.parallel.state.optimizer_state import kept_state
from strategies.parallel.state.small_tensors import copied_together, on_host

sys.path.insert(0, str(Path(__file__).parents[3] / "integration" / "workers"))
two_places: Any = importlib.import_module("two_places")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(two_places, "place", lambda **_: "here")
    return two_places.TwoPlaces()


def test_a_look_at_every_step_count_waits_once(world: Any) -> None:
    def looks() -> list[Any]:
        return [kept_state(optimizer, p, "name").values for p in parameters for _ in range(2)]

    with world:
        parameters = [torch.nn.Parameter(torch.ones(20 + n, device="cuda")) for n in range(5)]
        optimizer = torch.optim.AdamW(parameters, lr=torch.tensor(0.5), fused=True)
        for number, parameter in enumerate(parameters):
            optimizer.state[parameter] = {
                "step": torch.tensor(float(number), device="cuda"),
                "exp_avg": torch.zeros_like(parameter),
            }
        one_by_one = looks()
        world.waits.clear()
        with copied_together([optimizer]):
            assert looks() == one_by_one
        assert sum(world.waits.values()) == 1
        optimizer.state[parameters[0]]["step"] += 1
        assert looks() != one_by_one


def test_values_of_every_width_keep_their_bits(world: Any) -> None:
    with world:
        kept = [
            torch.tensor([True, False, True], device="cuda"),
            torch.tensor([[1.5], [-0.0]], dtype=torch.bfloat16, device="cuda"),
            torch.tensor(7, dtype=torch.int64, device="cuda"),
            torch.tensor([0.1] * 16, device="cuda"),
            torch.tensor(2.0**-1074, dtype=torch.float64, device="cuda"),
        ]
        optimizer = torch.optim.SGD([torch.zeros(1, device="cuda", requires_grad=True)])
        state: Any = optimizer.state
        state["shared"] = {"nested": [kept[0], (kept[1], {"a": kept[2]}), *kept[3:]]}
        alone = [on_host(one) for one in kept]
        with copied_together([optimizer]):
            together = [on_host(one) for one in kept]
    for mine, other in zip(together, alone, strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine.view(torch.uint8), other.view(torch.uint8))
