"""What a loop sets on the model's modules is found, and set again at a resume."""

from typing import Any

from torch import nn

from strategies.modifiers.loop_attributes import LoopAttributes
from strategies.modifiers.moving_numbers import SET_BY_LOOP


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)
        self.body = nn.Sequential(nn.Linear(2, 2), self.drop)
        self.norm = nn.BatchNorm1d(2)
        self.calls = 0
        self.temperature = 1.0


def mode(module: nn.Module) -> bool:
    return module.training


def test_modes_and_attributes_that_the_loop_sets_come_back() -> None:
    first = Model()
    attributes = LoopAttributes(first)
    attributes.begin({})
    assert attributes.changed() == {}
    first.drop.p = 0.5
    first.norm.eval()
    first.temperature = 2.0
    vars(first)[SET_BY_LOOP] = {"temperature"}
    first.calls = 7  # by the forward: told elsewhere
    wanted: dict[str, dict[str, Any]] = {
        "": {"temperature": 2.0},
        "drop": {"p": 0.5},
        "norm": {"training": False},
    }
    assert attributes.changed() == wanted

    again = Model()
    resumed = LoopAttributes(again)
    resumed.begin(wanted)
    assert (again.drop.p, again.norm.training, again.temperature) == (0.5, False, 2.0)
    assert (again.training, again.body.training, again.calls) == (True, True, 0)
    assert resumed.changed() == wanted, "a second save holds it too"


def test_a_loop_begins_in_training_mode_and_leaves_parts_as_the_script_has_set_them() -> None:
    model = Model().eval()
    attributes = LoopAttributes(model)
    assert mode(model.norm), "built in eval(), as from_pretrained does"
    model.norm.eval()
    attributes.begin({})
    assert not mode(model.norm)
    assert attributes.changed() == {}, "each start does this again"
    model.eval()
    attributes.begin({})
    assert mode(model.norm)


def test_a_module_that_is_gone_is_passed_over() -> None:
    attributes = LoopAttributes(Model())
    attributes.begin({"head": {"p": 0.3}})
    assert attributes.changed() == {}


def test_a_rollback_puts_back_what_was_set_since() -> None:
    model = Model()
    attributes = LoopAttributes(model)
    attributes.begin({})
    model.drop.p = 0.3
    saved = attributes.changed()
    model.drop.p = 0.5
    model.norm.eval()
    model.extra = 2.0  # type: ignore[assignment]
    vars(model)[SET_BY_LOOP] = {"extra"}
    assert sorted(attributes.go_back(saved)) == [
        "drop.p is 0.3 again",
        "extra is not set again",
        "norm.training is True again",
    ]
    assert (model.drop.p, mode(model.norm), hasattr(model, "extra")) == (0.3, True, False)
    assert attributes.changed() == saved
    assert attributes.go_back(saved) == []
