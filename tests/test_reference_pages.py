"""docs/reference.md and docs/metrics.md: every argument with its type and default, as the code."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import strategies
from launcher import Job, Run, Step
from launcher.training.recipe.recipe import Recipe
from strategies import metrics, schedules
from strategies.metrics.sums import MetricSums

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = (DOCS / "reference.md").read_text(encoding="utf-8")
METRICS = (DOCS / "metrics.md").read_text(encoding="utf-8")
KNOWN = {**vars(schedules), **{name: getattr(strategies, name) for name in strategies.__all__}}


def part(title: str) -> str:
    """What stands below a heading, until the next of its level."""
    return re.split(r"^## ", REFERENCE.split(f"\n## {title}\n", 1)[1], flags=re.MULTILINE)[0]


def arguments(text: str) -> dict[str, tuple[str, str, str]]:
    """(type, default, meaning) by argument."""
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (.*?) \| (.*) \|$", text, re.MULTILINE)
    return {
        name: (kind.replace("\\|", "|"), default.strip("`"), meaning)
        for name, kind, default, meaning in rows
    }


PREPARE, FIT = arguments(part("`run.prepare`")), arguments(part("`run.fit`"))


def test_every_argument_of_prepare_with_type_and_default() -> None:
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    assert sorted(PREPARE) == sorted(fields)
    for name, field in fields.items():
        kind, default, meaning = PREPARE[name]
        assert kind == field.type, name
        assert meaning.strip(), name
        if field.default_factory is not dataclasses.MISSING:
            made = {"dict": "{}", "constant": "schedules.constant()"}
            factory = getattr(field.default_factory, "__name__", "")
            assert default == made[factory], name
        elif field.default is dataclasses.MISSING:
            assert default == "required", name
        else:
            assert ast.literal_eval(default) == field.default, name


def test_every_argument_of_fit_with_type_and_default() -> None:
    found = {
        name: one
        for name, one in inspect.signature(Run.fit).parameters.items()
        if one.kind is one.KEYWORD_ONLY and (name in FIT or name not in PREPARE)
    }
    assert sorted(FIT) == sorted(found)
    for name, one in found.items():
        kind, default, _ = FIT[name]
        assert kind == one.annotation, name
        if one.default is one.empty:
            assert default == "required", name
        else:
            assert ast.literal_eval(default) == one.default, name


def examples() -> list[str]:
    rows = [(name, meaning) for name, (_, _, meaning) in (PREPARE | FIT).items()]
    return [code for name, text in rows for code in re.findall(rf"`({name}=[^`]+)`", text)]


@pytest.mark.parametrize("code", examples())
def test_an_example_is_accepted(code: str) -> None:
    space = {**KNOWN, "schedules": schedules, "torch": torch, "Net": torch.nn.Identity}
    (given,) = eval(f"dict({code})", space).items()  # the page is ours
    recipe: dict[str, Any] = {
        "model": torch.nn.Identity,
        "optimizer": torch.optim.SGD,
        "train": [0],
        "global_batch": 1,
        "micro_batch": 1,
        "epochs": 1,
        **dict([given]),
    }
    made = Recipe(**recipe)
    made.intervals(steps_per_epoch=10)
    made.retention(steps_per_epoch=10)


def signature(call: Callable[..., Any]) -> str:
    """Arguments and defaults, without annotations and self."""
    shown, has_star = [], False
    for one in inspect.signature(call).parameters.values():
        if one.name == "self" or one.kind is one.VAR_KEYWORD:
            continue
        if one.kind is one.VAR_POSITIONAL:
            shown.append(f"*{one.name}")
            has_star = True
            continue
        if one.kind is one.KEYWORD_ONLY and not has_star:
            shown.append("*")
            has_star = True
        value = f'"{one.default}"' if isinstance(one.default, str) else repr(one.default)
        shown.append(one.name if one.default is one.empty else f"{one.name}={value}")
    return f"({', '.join(shown)})"


CALLS: dict[str, Callable[..., Any]] = {
    "Run.start": Run.start,
    "run.split": Run.split,
    "run.folds": Run.folds,
    "run.config": Run.config,
    "job.stop": Job.stop,
    "job.export": Job.export,
    "job.test": Job.test,
    "job.try_measure": Job.try_measure,
    "step.backward": Step.backward,
    "step.evaluate": Step.evaluate,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_has_its_signature(name: str) -> None:
    assert f"| `{name}{signature(CALLS[name])}` |" in REFERENCE


INTERNAL = {
    *("context", "mistake_text", "save_after", "save_after_mistake"),
    *("plan", "prepare", "fit", "require_complete", "place", "is_under_way"),
}
"""Public to the parts of a run, of no use to a script."""


@pytest.mark.parametrize("cls", [Run, Job, Step])
def test_every_public_name_of_what_a_script_holds_is_there(cls: type) -> None:
    names = {name for name in vars(cls) if not name.startswith("_")} - INTERNAL
    missing = [name for name in names if f".{name}" not in part(f"`{cls.__name__}`")]
    assert not missing


OTHERS = {
    *("Any", "Callable", "False", "Mapping", "Module", "None", "Optimizer", "Path", "Sequence"),
    *("EMA", "EarlyStopping", "Penalty", "ReduceOnPlateau"),
}
"""Types that need no explanation, or have a row of their own."""


def test_every_type_is_explained() -> None:
    kinds = {
        word
        for kind, _, _ in [*PREPARE.values(), *FIT.values()]
        for word in re.findall(r"\b[A-Z]\w+", kind)
    }
    explained = set(re.findall(r"^\| `(\w+)` \|", part("Types"), re.MULTILINE))
    assert kinds - OTHERS == explained


def test_every_metric_with_its_signature() -> None:
    for name in metrics.__all__:
        if name != "Tally":
            found = signature(getattr(metrics, name))
            assert f"| `{name}{found}` |" in METRICS, f"{name}{found}"
    rows = re.findall(r"^\| `(\w+)\(", METRICS, re.MULTILINE)
    assert sorted(rows) == sorted(set(metrics.__all__) - {"Tally"})


def measured(source: str, batch: Any) -> dict[str, Any]:
    """What a page's measure gives for one batch, of a model that returns its input."""
    space: dict[str, Any] = {}
    exec(compile(source, "docs/metrics.md", "exec"), space)  # the page is ours
    sums = MetricSums()
    sums.add(space["measure"](lambda x: x, batch), weight=1.0)
    return sums.finish(sums.vector())


def test_the_measures_of_the_page() -> None:
    first, own = re.findall(r"```python\n(.*?)```", METRICS, re.DOTALL)
    found = measured(first, (torch.eye(10), torch.arange(10)))
    assert (found["accuracy"], found["f1"]) == (1.0, 1.0)
    relative = measured(own, (torch.tensor([0.0, 3.0]), torch.tensor([0.0, 4.0])))
    assert relative == {"relative": 0.25}
