"""What `run.prepare` and `run.fit` refuse by name and kind, before a recipe is made."""

import re
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from launcher.training.loop.evaluation import evaluate
from launcher.training.loop.fit import fit
from launcher.training.loop.job import Job
from launcher.training.loop.steps.step import Step
from launcher.training.recipe.arguments import require_arguments
from launcher.training.recipe.names_elsewhere import ELSEWHERE
from launcher.training.recipe.recipe import Recipe
from strategies import EMA, ConfigError, EarlyStopping

WHOLE: dict[str, Any] = {
    "model": dict,
    "optimizer": dict,
    "train": range(10),
    "global_batch": 4,
    "micro_batch": 2,
    "epochs": 1,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stopp": None}, 'run.prepare has no argument "stopp"; did you mean stop?'),
        ({"zzzzz": 1}, 'run.prepare has no argument "zzzzz".'),
        (
            {"stop": "val/loss"},
            "stop='val/loss' is of type str; pass stop=EarlyStopping(\"val/loss\", patience=5).",
        ),
        ({"ema": 0.9}, "ema=0.9 is of type float; pass ema=EMA(decay=0.999)."),
        ({"penalty": EMA()}, "is of type EMA; pass penalty=Penalty(l2=1e-4)."),
        ({"plateau": 3}, 'pass plateau=ReduceOnPlateau("val/loss", factor=0.5).'),
        ({"global_batch": "64"}, "global_batch='64' is of type str; it must be an int."),
        ({"epochs": 2.5}, "epochs=2.5 is of type float; it must be an int."),
        ({"keep": True}, "keep=True is of type bool; it must be an int."),
        (
            {"evaluate_every": 50},
            "evaluate_every=50 is of type int; write it as text with its unit, such as "
            'evaluate_every="50 steps".',
        ),
        ({"track": "wandb"}, 'track="wandb" is one name; pass a list: track=["wandb"].'),
        ({"train": DataLoader([1, 2])}, "train= is a DataLoader, and batches are made here"),
    ],
)
def test_what_no_recipe_is_made_of(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        require_arguments(Recipe, WHOLE | changes, where="run.prepare")
    assert words in str(refusal.value)


def test_what_is_missing_is_named() -> None:
    given = {k: v for k, v in WHOLE.items() if k not in ("optimizer", "micro_batch")}
    with pytest.raises(ConfigError, match=r"run.fit needs optimizer=, micro_batch= too"):
        require_arguments(Recipe, given, where="run.fit")


def test_what_is_right_passes() -> None:
    more = {"stop": EarlyStopping("val/loss"), "track": ["wandb"], "save_every": "5 min"}
    require_arguments(Recipe, WHOLE | more | {"plateau": None, "epochs": None}, where="run.prepare")


def test_fit_knows_its_own_names_too() -> None:
    run: Any = SimpleNamespace()
    own: dict[str, Any] = dict.fromkeys(("loss", "measure", "validate", "test", "export"))
    with pytest.raises(ConfigError, match=r'run.fit has no argument "validat"; did you mean valid'):
        fit(run, **own, recipe={**WHOLE, "validat": range(3)})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("collate_fn", "it is collate= here: a function from the list of samples to the batch"),
        ("data_collator", "it is collate= here"),
        ("num_workers", "asked for as workers= in run.prepare"),
        ("worker_init_fn", "it is worker_init= here, in run.prepare"),
        ("prefetch_factor", "it is prefetch= here"),
        ("persistent_workers", "it is persistent= here"),
        (
            "batch_size",
            r"give micro_batch= \(samples in one forward of one rank\) and global_batch=",
        ),
        ("shuffle", "the order of the samples is made here, from seed and epoch"),
        ("sampler", "picks or repeats samples"),
        ("drop_last", "no sample is left out"),
        ("pin_memory", "pinned wherever there is a GPU"),
        ("multiprocessing_context", "set_start_method"),
    ],
)
def test_names_of_other_libraries_are_answered_with_ours(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f'run.prepare has no argument "{name}": .*{words}'):
        require_arguments(Recipe, WHOLE | {name: 1}, where="run.prepare")
    step: Any = Step.__new__(Step)
    with pytest.raises(ConfigError, match=f'step.evaluate has no argument "{name}": .*{words}'):
        step.evaluate([], None, **{name: 1})
    job: Any = Job.__new__(Job)
    with pytest.raises(ConfigError, match=f'job.test has no argument "{name}": .*{words}'):
        job.test([], None, **{name: 1})


def test_what_we_say_instead_is_an_argument_of_ours() -> None:
    ours = {field.name for field in fields(Recipe)}
    for name, elsewhere in ELSEWHERE.items():
        assert name not in ours
        assert set(re.findall(r"(\w+)=", elsewhere.sentence)) <= ours


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataLoader([1, 2]), "the data set to evaluate as val is a DataLoader.*loader.dataset"),
        (iter([1]), "val is a list_iterator without a length"),
        ([], "evaluate as val is empty"),
    ],
)
def test_what_cannot_be_evaluated(data: Any, words: str) -> None:
    nothing: Any = None
    with pytest.raises(ConfigError, match=words):
        evaluate(
            nothing,
            nothing,
            nothing,
            data,
            nothing,
            micro_batch=2,
            name="val",
            seed=0,
            open_batches=nothing,
            beat=lambda: None,
        )
