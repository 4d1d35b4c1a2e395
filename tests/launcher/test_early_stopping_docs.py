"""docs/early_stopping.md: its table is what was recorded, its commands and snippets run."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from torch.optim.lr_scheduler import StepLR

from launcher.commands.schedule import run
from strategies import (
    EarlyStopping,
    Rates,
    ReduceOnPlateau,
    Span,
    schedules,
    torch_schedule,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "early_stopping.md").read_text()
COLUMNS = (
    *("keras", "lightning", "hugging face", "composer", "skorch", "ignite", "ignite cumulative"),
    "torch plateau",
)


def shown(value: int | str | None) -> str:
    if value is None:
        return "continues"
    return "refused" if str(value).startswith("refused") else str(value)


def test_the_table_is_what_was_recorded() -> None:
    folder = ROOT / "tests" / "strategies" / "stopping"
    recorded = json.loads((folder / "early_stopping_rivals.json").read_text())
    for case in json.loads((folder / "early_stopping_cases.json").read_text()):
        stops = recorded["stops"][case["name"]]
        cells = [shown(stops[name]) if name in stops else "" for name in COLUMNS]
        assert f"| {' | '.join([case['name'], shown(case['ours']), *cells])} |" in PAGE
    for name, version in recorded["versions"].items():
        assert f"{name} {version}" in PAGE


def test_every_argument_is_in_the_page() -> None:
    for name in EarlyStopping.__dataclass_fields__:
        assert f"`{name}`" in PAGE


COMMANDS = re.findall(r"^    relaunch schedule (.*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("run.prepare(schedule=schedules.warmup(5))")
    if "--plot" in command:
        pytest.importorskip("matplotlib")
    assert run(shlex.split(command)) == 0
    assert "begins" in capsys.readouterr().out
    assert (tmp_path / "schedule.png").exists() == ("--plot" in command)


def test_its_schedules_and_rules() -> None:
    assert len(COMMANDS) == 3
    known = {
        "EarlyStopping": EarlyStopping,
        "ReduceOnPlateau": ReduceOnPlateau,
        "schedules": schedules,
        "torch_schedule": torch_schedule,
        "StepLR": StepLR,
    }
    lines = re.findall(r"^    ((?:schedule|stop)=.*)$", PAGE, re.MULTILINE)
    groups = [{"params": [], "lr": 0.1}]
    made = [eval(f"dict({line})", known) for line in lines]
    for one in made:
        if "schedule" in one:
            Rates(one["schedule"], groups, Span(total_steps=1000, steps_per_epoch=10)).at(5, 1.0)
    assert [next(iter(one)) for one in made] == ["stop", "stop", *["schedule"] * 4]
