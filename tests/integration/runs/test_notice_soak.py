"""A notice in each phase of a run's life: the short form of scripts/soak_notice."""

import sys
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(400)
SCRIPTS = Path(__file__).parents[3] / "scripts"
SEED = 1
ALL_TWICE = 2 * ("SIGUSR2", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
SETTINGS: dict[str, dict[str, Any]] = {
    "warm": {"strategy": "zero2", "workers": 0, "start": "warm"},
    "loading": {"strategy": "fsdp", "workers": 2, "start": "warm"},
    "plain": {"strategy": "ddp", "workers": 2, "start": "warm"},
    "cold": {"strategy": "ddp", "workers": 2, "start": "cold"},
}
CASES: tuple[tuple[str, str, str, tuple[str, ...], bool], ...] = (
    # phase, setting, who is told, by what, whether the phase lasts longer than the grace
    ("start", "warm", "launcher", ("SIGTERM",), False),
    ("import", "cold", "tree", ("SIGUSR1",), True),
    ("build", "loading", "launcher", ALL_TWICE, True),
    ("restore", "warm", "rank", ("SIGTERM",), True),
    ("compile", "loading", "tree", ("SIGHUP",), True),
    ("step", "cold", "tree", ALL_TWICE, True),
    ("accumulation", "warm", "rank", ("SIGHUP",), True),
    ("data wait", "loading", "tree", ("SIGTERM",), False),
    ("evaluation", "loading", "rank", ALL_TWICE, True),
    ("save in flight", "plain", "launcher", ("SIGUSR2",), False),
    ("restart", "warm", "launcher", ("SIGTERM",), False),
    ("export", "loading", "tree", ("SIGINT",), False),
    ("test", "warm", "tree", ALL_TWICE, True),
    ("end", "warm", "tree", ("SIGTERM",), False),
)
IN_CI = ("step", "evaluation", "save in flight", "restart")
"""The phases of which a trial is part of scripts/test; the others are slow ones."""


@dataclass(frozen=True, kw_only=True)
class Soak:
    """The parts of scripts/soak_notice, and the undisturbed run that all trials share."""

    trials: ModuleType
    one_trial: ModuleType
    undisturbed: Any


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory) -> Soak:
    sys.path.append(str(SCRIPTS))
    try:
        parts = [import_module(f"notice_soak.{n}") for n in ("trials", "one_trial", "undisturbed")]
    finally:
        sys.path.remove(str(SCRIPTS))
    trials, one_trial, undisturbed = parts
    folder = tmp_path_factory.mktemp("undisturbed")
    runs = undisturbed.Undisturbed(folder, alone=trials.Setting(ranks=1))
    return Soak(trials=trials, one_trial=one_trial, undisturbed=runs)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case[0] in IN_CI else pytest.mark.slow) for case in CASES],
    ids=lambda case: case[0].replace(" ", "-"),
)
def test_a_notice_loses_nothing(
    case: tuple[str, str, str, tuple[str, ...], bool], soak: Soak, tmp_path: Path
) -> None:
    phase, name, target, signals, outlasts = case
    setting = soak.trials.Setting(**SETTINGS[name])
    then = replace(setting, start="warm", ranks=1) if name == "cold" else setting
    trial = replace(
        soak.trials.trial(SEED, soak.trials.PHASES.index(phase)),
        setting=setting,
        then=then,
        target=target,
        signals=signals,
        outlasts=outlasts,
        compiles=False,
    )
    verdict = soak.one_trial.run_trial(trial, tmp_path / "trial", soak.undisturbed)
    what = "\n".join((trial.describe(), *verdict.wrong, verdict.left.told))
    assert not verdict.wrong, what


def test_a_trial_is_a_function_of_its_seed_and_number(soak: Soak) -> None:
    trials = soak.trials
    assert trials.trial(3, 50) == trials.trial(3, 50) != trials.trial(4, 50)
    chosen = trials.trials(3, len(trials.PHASES) * 36)
    settings = {(t.phase, t.setting, t.target) for t in chosen}
    assert len(settings) == len(chosen), "each phase meets each combination once"
    assert [t.number for t in trials.trials(3, 2, ("restore",))] == [3, 17]
    assert trials.trials(3, 4)[2:] == trials.trials(3, 2, first=2)
