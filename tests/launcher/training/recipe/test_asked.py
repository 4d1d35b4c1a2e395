"""What a script asks for otherwise than the run had it so far is found, and nothing else."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from launcher.training.recipe.asked import (
    changes_of_asked,
    files_of_script,
    layers_of,
    settings_of,
)
from strategies import EMA, EarlyStopping


def halved(x: float) -> float:
    return x / 2


def test_settings_are_text_without_defaults_and_addresses() -> None:
    recipe = SimpleNamespace(
        max_grad_norm=None, stop=EarlyStopping("val/loss", patience=2), forward=halved
    )
    assert settings_of(recipe) == {
        "max_grad_norm": "None",
        "stop": "EarlyStopping(monitor='val/loss', mode='min', patience=2)",
        "forward": "halved",
    }
    assert settings_of(SimpleNamespace(ema=EMA(decay=0.9))) == {"ema": "EMA(decay=0.9)"}


def test_layers_are_counted_as_torch_prints_them() -> None:
    model = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.1), nn.Tanh()))
    assert layers_of(model, nn.Tanh()) == {"Dropout(p=0.1, inplace=False)": 2, "Tanh()": 2}


def test_the_files_are_the_script_and_what_it_imports_from_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train.py", "net.py", "other.py"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    net: Any = SimpleNamespace(__file__=str(tmp_path / "net.py"))
    monkeypatch.setitem(sys.modules, "net_of_it", net)
    before = files_of_script()
    assert list(before) == ["net.py", "train.py"]
    (tmp_path / "net.py").write_text("edited")
    now = files_of_script()
    assert changes_of_asked({"files": before}, {"files": now}) == ["files edited: net.py"]


def test_each_change_is_a_phrase() -> None:
    before = {
        "script": "a.py",
        "settings": {"max_grad_norm": "None", "ema": "None"},
        "layers": {"Dropout(p=0.1)": 2, "Tanh()": 1},
        "files": {"a.py": "1"},
    }
    now = {
        "script": "b.py",
        "settings": {"max_grad_norm": "1.0", "ema": "None", "penalty": "None"},
        "layers": {"Dropout(p=0.3)": 2, "Tanh()": 1},
        "files": {"b.py": "1"},
    }
    assert changes_of_asked(before, now) == [
        "max_grad_norm: None -> 1.0",
        "layers of the model: 2 Dropout(p=0.1) -> 2 Dropout(p=0.3)",
        "script: a.py -> b.py",
    ]
    assert changes_of_asked(before, before) == []
    assert changes_of_asked({}, now) == []
