"""The config.json of an exported model."""

import json

import pytest
from torch import nn

from launcher.training.saving.model_config import WithConfig, config_of, write_config


class Config:
    def __init__(self, **values):
        self.values = values

    def to_dict(self):
        return dict(self.values)


class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config


def test_what_the_model_was_made_from(tmp_path):
    factory = WithConfig(lambda: Net(Config(model_type="mine", dtype="bfloat16")), reads_files=True)
    assert factory.config is None
    assert isinstance(factory(), Net)
    assert factory.names is None
    assert factory.config == {"model_type": "mine", "dtype": "float32", "architectures": ["Net"]}
    write_config(factory.config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == factory.config
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("config", [None, {"a": 1}, Config(x=object()), type("C", (), {})()])
def test_what_is_none_is_left_out(config):
    assert config_of(Net(config)) is None


def test_a_class_that_is_named_stays():
    assert config_of(Net(Config(architectures=["Other"]))) == {"architectures": ["Other"]}


def test_a_config_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(hidden_size=8, num_attention_heads=2)
    told = config_of(Net(config))
    assert (told["model_type"], told["hidden_size"]) == ("llama", 8)
