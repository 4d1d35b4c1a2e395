"""What is exported of a PEFT model, found out when it has just been built."""

import pytest
import torch
from torch import nn

from launcher.training.saving.adapter import Adapter, adapter_of


def test_a_model_that_is_none_of_peft_has_no_adapter():
    assert adapter_of(nn.Linear(2, 2)) is None


@pytest.fixture
def adapted():
    peft = pytest.importorskip("peft")

    def make(**options):
        base = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        return peft.get_peft_model(base, peft.LoraConfig(r=1, target_modules=["0"], **options))

    return make


def test_its_names_are_those_of_peft(adapted):
    found = adapter_of(adapted())
    assert isinstance(found, Adapter)
    assert found.names == {
        f"base_model.model.0.lora_{which}.default.weight": f"base_model.model.0.lora_{which}.weight"
        for which in "AB"
    }
    assert found.config.inference_mode
    assert found.auto_mapping["base_model_class"] == "Sequential"


def test_a_module_that_is_saved_whole_is_part_of_it(adapted):
    found = adapter_of(adapted(modules_to_save=["2"]))
    assert found.names["base_model.model.2.modules_to_save.default.bias"].endswith(".2.bias")
    assert len(found.names) == 4


def test_what_is_trained_beside_it_is_named(adapted):
    model = adapted()
    model.base_model.model[1].weight.requires_grad_(True)
    problem = adapter_of(model)
    assert "1 trained parameters (base_model.model.1.weight) do not belong" in problem
    assert "modules_to_save" in problem
    # What the text advises works.
    assert isinstance(adapter_of(adapted(modules_to_save=["1"])), Adapter)


def test_it_is_found_on_the_meta_device(adapted):
    with torch.device("meta"):
        assert len(adapter_of(adapted()).names) == 2
