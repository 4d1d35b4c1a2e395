import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from launcher.training.recipe.script_config import build_config, config_from_file, to_json
from strategies import ConfigError


class Kind(enum.Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True, kw_only=True)
class Model:
    width: int = 64
    depth: int = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    lr: float = 1e-3
    epochs: int = 10
    shuffle: bool = True
    name: str = "run"
    data: Path = Path("data")
    clip: float | None = None
    mode: Literal["min", "max"] = "min"
    kind: Kind = Kind.SMALL
    betas: tuple[float, float] = (0.9, 0.999)
    freeze: tuple[str, ...] = ()
    model: Model = field(default_factory=lambda: Model(depth=3))


def test_without_anything_the_defaults_hold():
    assert build_config(Config, []) == Config()


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (["--lr=3e-4"], {"lr": 3e-4}),
        (["--lr", "1"], {"lr": 1.0}),
        (["--lr", "-1"], {"lr": -1.0}),
        (["--epochs=3"], {"epochs": 3}),
        (["--shuffle=no"], {"shuffle": False}),
        (["--data=/x"], {"data": Path("/x")}),
        (["--clip=1.5"], {"clip": 1.5}),
        (["--clip=none"], {"clip": None}),
        (["--mode=max"], {"mode": "max"}),
        (["--kind=LARGE"], {"kind": Kind.LARGE}),
        (["--betas=0.8,0.9"], {"betas": (0.8, 0.9)}),
        (["--freeze=a,b"], {"freeze": ("a", "b")}),
        (["--model.width=8"], {"model": Model(width=8, depth=3)}),
    ],
)
def test_the_command_line_wins(words, change):
    assert build_config(Config, words) == Config(**change)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lrr=1"], '--lrr: unknown setting "lrr"; did you mean lr?'),
        (["--model.widht=1"], 'unknown setting "model.widht"; did you mean model.width?'),
        (["--zzz=1"], "There are: lr, epochs"),
        (["--epochs=1.5"], '--epochs: epochs="1.5" is not a whole number.'),
        (["--lr=fast"], 'lr="fast" is not a number.'),
        (["--shuffle=maybe"], "is not true or false"),
        (["--mode=best"], "is not one of min, max"),
        (["--kind=HUGE"], "is not one of SMALL, LARGE"),
        (["--betas=0.9"], "betas="),
        (["--epochs"], "--epochs needs a value"),
        (["epochs=1"], '"epochs=1" is no setting'),
        (["--config=nowhere.toml"], "nowhere.toml cannot be read"),
        (["--config=x.ini"], "settings are read from .toml"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        build_config(Config, words)
    assert message in str(refused.value)


FILES = {
    "c.toml": "lr = 1e-2\nbetas = [0.5, 0.6]\n[model]\nwidth = 5\n",
    "c.yaml": "lr: 1e-2\nbetas: [0.5, 0.6]\nmodel:\n  width: 5\n",
    "c.json": '{"lr": 0.01, "betas": [0.5, 0.6], "model": {"width": 5}}',
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_between_the_two(name, tmp_path):
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    path = tmp_path / name
    path.write_text(FILES[name])
    expected = Config(lr=0.01, betas=(0.5, 0.6), model=Model(width=5, depth=3), epochs=2)
    assert build_config(Config, [f"--config={path}", "--epochs=2"]) == expected
    assert build_config(Config, ["--epochs=2"], file=path) == expected
    assert build_config(Config, ["--lr=5"], file=path).lr == 5.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = true", "epochs=True is not a whole number"),
        ("epochs = 1.5", "epochs=1.5 is not a whole number"),
        ("name = 3", "name=3 is not a text"),
        ("epoch = 3", 'unknown setting "epoch"; did you mean epochs?'),
        ("model = 3", 'unknown setting "model"'),
        ("= 3", "cannot be understood"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(text, message, tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        build_config(Config, [], file=path)
    assert message in str(refused.value)
    assert "c.toml" in str(refused.value)


def test_a_setting_without_a_default_is_needed():
    @dataclass
    class Needs:
        data: str

    with pytest.raises(ConfigError, match="data has no default; pass --data=VALUE"):
        build_config(Needs, [])
    assert build_config(Needs, ["--data=x"]).data == "x"


def test_a_file_alone_gives_names_and_types(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('lr = 0.1\nnames = ["a"]\n[model]\nwidth = 5\n')
    made = build_config(config_from_file(path), ["--model.width=6", "--names=b,c"], file=path)
    assert (made.lr, made.names, made.model.width) == (0.1, ("b", "c"), 6)
    with pytest.raises(ConfigError, match="not a whole number"):
        build_config(config_from_file(path), ["--model.width=x"], file=path)


def test_what_is_kept_in_run_json():
    told = to_json(Config())
    assert told["kind"] == "SMALL"
    assert told["data"] == "data"
    assert told["model"] == {"width": 64, "depth": 3}
    assert told["betas"] == [0.9, 0.999]
