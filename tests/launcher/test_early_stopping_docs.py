"""docs/early_stopping.md: its table is what was recorded, its commands and snippets run."""

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import StepLR

from launcher.commands.schedule import run
from strategies import (
    EarlyStopping,
    Rates,
    ReduceOnPlateau,
    Span,
    metrics,
    schedules,
    torch_schedule,
)
from strategies.metrics.sums import MetricSums

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "early_stopping.md").read_text()
BLOCKS = re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE, re.MULTILINE)
COLUMNS = (
    *("keras", "lightning", "hugging face", "composer", "skorch", "ignite", "ignite cumulative"),
    "torch plateau",
)


def shown(value: int | str | None) -> str:
    if value is None:
        return "goes on"
    return "refused" if str(value).startswith("refused") else str(value)


def test_the_table_is_what_was_recorded() -> None:
    folder = ROOT / "tests" / "strategies"
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


def test_its_measure() -> None:
    (block,) = [block for block in BLOCKS if "def measure" in block]
    source = "\n".join(line.removeprefix("    ") for line in block.splitlines())
    space: dict[str, Any] = {"F": F}
    exec(compile(ast.parse(source), "docs", "exec"), space)
    labels = torch.arange(10)
    measured = space["measure"](lambda x: x, (torch.eye(10), labels))
    sums = MetricSums()
    sums.add(measured, weight=1.0)
    found = sums.finish(sums.vector())
    assert (found["accuracy"], found["f1"]) == (1.0, 1.0)
    assert space["metrics"] is metrics
