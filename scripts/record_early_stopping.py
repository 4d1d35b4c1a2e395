"""Record where other libraries' early stopping ends the curves of tests/strategies.

Run it where keras (with KERAS_BACKEND=torch), lightning, transformers, mosaicml, skorch and
pytorch-ignite are installed; it rewrites tests/strategies/stopping/early_stopping_rivals.json,
which the tests compare our rule with. mosaicml asks for an older torch: install it with --no-deps,
and the script loads its one file alone.

    python scripts/record_early_stopping.py
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

FOLDER = Path(__file__).parents[1] / "tests" / "strategies" / "stopping"
Curve = list[float]
Stops = Callable[[Curve, dict[str, Any]], "int | str | None"]
"""(values, arguments) -> 0-based evaluation after which it stops; None: it goes on; or an error."""


def keras(values: Curve, given: dict[str, Any]) -> int | None:
    from keras.callbacks import EarlyStopping

    rule = EarlyStopping(
        monitor="m", mode=given["mode"], patience=given["patience"], min_delta=given["min_delta"]
    )
    model = SimpleNamespace(stop_training=False)
    rule.set_model(model)
    rule.on_train_begin()
    for number, value in enumerate(values):
        rule.on_epoch_end(number, {"m": value})
        if model.stop_training:
            return number
    return None


def lightning(values: Curve, given: dict[str, Any]) -> int | None:
    from lightning.pytorch.callbacks import EarlyStopping

    rule = EarlyStopping(
        monitor="m", mode=given["mode"], patience=given["patience"], min_delta=given["min_delta"]
    )
    for number, value in enumerate(values):
        if rule._evaluate_stopping_criteria(torch.tensor(value, dtype=torch.float64))[0]:
            return number
    return None


def hugging_face(values: Curve, given: dict[str, Any]) -> int | None:
    from transformers import EarlyStoppingCallback, Trainer

    rule = EarlyStoppingCallback(given["patience"], given["min_delta"])
    trainer = SimpleNamespace(
        args=SimpleNamespace(
            metric_for_best_model="m", greater_is_better=given["mode"] == "max", save_strategy="no"
        ),
        state=SimpleNamespace(best_metric=None, best_global_step=None, global_step=0),
    )
    control = SimpleNamespace(should_training_stop=False)
    for number, value in enumerate(values):
        metrics = {"eval_m": value}
        rule.on_evaluate(trainer.args, trainer.state, control, metrics)
        Trainer._determine_best_metric(trainer, metrics=metrics, trial=None)
        if control.should_training_stop:
            return number
    return None


def composer(values: Curve, given: dict[str, Any]) -> int | None:
    stopper = composer_class()
    rule = stopper(
        monitor="m",
        dataloader_label="eval",
        comp={"min": "lt", "max": "gt"}[given["mode"]],
        patience=given["patience"],
        min_delta=given["min_delta"],
    )
    stopped: list[bool] = []
    for number, value in enumerate(values):
        state = SimpleNamespace(
            eval_metrics={"eval": {"m": SimpleNamespace(compute=lambda v=value: torch.tensor(v))}},
            train_metrics=None,
            timestamp=SimpleNamespace(epoch=Time(number, "ep")),
            stop_training=lambda: stopped.append(True),
        )
        rule._update_stopper_state(state)
        if stopped:
            return number
    return None


class Time(int):
    """What composer's file needs of its own class: a number with a unit."""

    unit: str

    def __new__(cls, value: int, unit: str) -> "Time":
        time = super().__new__(cls, value)
        time.unit = unit
        return time


def composer_class() -> Any:
    """Load the one file of composer; the package as a whole needs an older torch."""
    names = SimpleNamespace(EPOCH="ep", BATCH="ba")
    stubs = {
        "composer": {},
        "composer.core": {"Callback": object, "State": object, "Time": Time, "TimeUnit": names},
        "composer.loggers": {"Logger": object},
    }
    for name, members in stubs.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module
    source = next(
        file.locate()
        for file in importlib.metadata.files("mosaicml") or []
        if str(file).endswith("callbacks/early_stopper.py")
    )
    spec = importlib.util.spec_from_file_location("early_stopper", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EarlyStopper


def skorch(values: Curve, given: dict[str, Any]) -> int | None:
    from skorch.callbacks import EarlyStopping

    rule = EarlyStopping(
        monitor="m",
        patience=given["patience"],
        threshold=given["min_delta"],
        threshold_mode=given["delta"][:3],
        lower_is_better=given["mode"] == "min",
    )
    net = SimpleNamespace(verbose=0, history=History())
    rule.on_train_begin(net)
    for number, value in enumerate(values):
        net.history.newest = {"m": value, "epoch": number}
        try:
            rule.on_epoch_end(net)
        except KeyboardInterrupt:
            return number
    return None


class History:
    """What skorch's rule reads: history[-1, name]."""

    newest: dict[str, float]

    def __getitem__(self, key: tuple[int, str]) -> float:
        return self.newest[key[1]]


def ignite(values: Curve, given: dict[str, Any]) -> int | str | None:
    from ignite.engine import Engine
    from ignite.handlers import EarlyStopping

    trainer = Engine(lambda engine, batch: None)
    try:
        rule = EarlyStopping(
            patience=given["patience"],
            score_function=lambda engine: engine.state.score,
            trainer=trainer,
            threshold=given["min_delta"],
            threshold_mode=given["delta"][:3],
            cumulative=given.get("cumulative", False),
            mode=given["mode"],
        )
    except ValueError as error:
        return f"refused: {error}"
    for number, value in enumerate(values):
        rule(SimpleNamespace(state=SimpleNamespace(score=value)))
        if trainer.should_terminate:
            return number
    return None


def ignite_cumulative(values: Curve, given: dict[str, Any]) -> int | str | None:
    return ignite(values, {**given, "cumulative": True})


def torch_plateau(values: Curve, given: dict[str, Any]) -> int | None:
    """Where torch's ReduceLROnPlateau would cut the rate for the first time."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=given["mode"],
        patience=given["patience"],
        threshold=given["min_delta"],
        threshold_mode=given["delta"][:3],
    )
    for number, value in enumerate(values):
        rule.step(value)
        if optimizer.param_groups[0]["lr"] < 1.0:
            return number
    return None


RIVALS: dict[str, tuple[str, Stops, tuple[str, ...]]] = {
    "keras": ("keras", keras, ("absolute",)),
    "lightning": ("lightning", lightning, ("absolute",)),
    "hugging face": ("transformers", hugging_face, ("absolute",)),
    "composer": ("mosaicml", composer, ("absolute",)),
    "skorch": ("skorch", skorch, ("absolute", "relative")),
    "ignite": ("pytorch-ignite", ignite, ("absolute", "relative")),
    "ignite cumulative": ("pytorch-ignite", ignite_cumulative, ("absolute", "relative")),
    "torch plateau": ("torch", torch_plateau, ("absolute", "relative")),
}
"""For each column: the distribution, how it is asked, and the margins that it knows."""


def record(case: dict[str, Any]) -> dict[str, int | str | None]:
    given = {"mode": "min", "min_delta": 0.0, "delta": "absolute", **case["arguments"]}
    values = [float(value) for value in case["values"]]
    found: dict[str, int | str | None] = {}
    for name, (_, stops, margins) in RIVALS.items():
        if given["delta"] not in margins:
            continue
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                found[name] = stops(values, given)
            except Exception as error:
                found[name] = f"refused: {error}"
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    cases = json.loads((FOLDER / "early_stopping_cases.json").read_text())
    table = {
        "versions": {
            name: importlib.metadata.version(name).partition("+")[0]
            for name in dict.fromkeys(distribution for distribution, _, _ in RIVALS.values())
        },
        "stops": {case["name"]: record(case) for case in cases},
    }
    text = json.dumps(table, indent=1) + "\n"
    (FOLDER / "early_stopping_rivals.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
