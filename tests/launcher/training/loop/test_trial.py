"""What a rank notes of its trial, and what a trial changes of a recipe."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from launcher.contract.trial import LONGEST_KEPT, TrialSettings
from launcher.training.loop.trial import Trial, for_trial
from launcher.training.recipe.recipe import Recipe
from strategies.data.reading.first_samples import digest


def recipe() -> Recipe:
    return Recipe(
        model=lambda: torch.nn.Linear(1, 1),
        optimizer=lambda parameters: torch.optim.SGD(list(parameters), lr=1.0),
        train=TensorDataset(torch.arange(4.0)),
        global_batch=2,
        micro_batch=1,
        epochs=3,
        keep_every="2 steps",
    )


def test_a_recipe_without_a_trial_stays() -> None:
    one = recipe()
    assert for_trial(one, None) is one


def test_a_trial_changes_what_is_saved_and_told_alone() -> None:
    found = for_trial(recipe(), TrialSettings(steps=2, save_every_steps=1))
    assert (found.save_every, found.keep, found.keep_every) == ("1 steps", LONGEST_KEPT, None)
    assert (found.log_every, found.epochs, found.global_batch) == (1, 3, 2)
    assert for_trial(recipe(), TrialSettings(steps=2)).save_every == recipe().save_every


def test_a_trial_has_steps() -> None:
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        TrialSettings(steps=0)


VALUE = {"x": torch.arange(4.0), "more": [np.arange(3), ("a", 1, None, True, 2.5)]}
OTHERS: list[Any] = [
    {"x": torch.arange(4.0, dtype=torch.float64), "more": VALUE["more"]},
    {"x": torch.arange(4.0).reshape(2, 2), "more": VALUE["more"]},
    {"x": torch.arange(1.0, 5.0), "more": VALUE["more"]},
    {"x": VALUE["x"], "more": [np.arange(3), ("a", 1, None, True, 2.25)]},
    {"y": VALUE["x"], "more": VALUE["more"]},
]


def test_digests_differ_by_content_shape_and_type() -> None:
    again = {"x": torch.arange(4.0), "more": [np.arange(3), ("a", 1, None, True, 2.5)]}
    assert digest(VALUE) == digest(again)
    assert len({digest(one) for one in (VALUE, *OTHERS)}) == len(OTHERS) + 1


def test_an_object_is_no_address() -> None:
    assert digest(object()) == digest(object())


@pytest.mark.parametrize("value", [torch.tensor(1.0), torch.tensor([], dtype=torch.bfloat16)])
def test_small_tensors(value: torch.Tensor) -> None:
    assert digest(value) == digest(value.clone())


def noted(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rank-1.jsonl").read_text().splitlines()]


def test_a_rank_notes_its_micro_batches(tmp_path: Path) -> None:
    trial = Trial(TrialSettings(steps=2, trace=str(tmp_path)), 1)
    trial.before_step(1)
    trial.batch(3, torch.ones(2), is_padding=False)
    trial.loss(torch.tensor(2.0, requires_grad=True), torch.tensor(4))
    trial.batch(3, torch.ones(2), is_padding=True)
    assert noted(tmp_path) == [
        {"rank": 1, "step": 1, "micro_batch": 3, "batch": digest(torch.ones(2))},
        {"rank": 1, "step": 1, "micro_batch": 3, "loss": 2.0, "count": 4.0},
    ]
    assert not trial.is_over(1)
    assert trial.is_over(2)


class Drawing:
    """A data set whose samples depend on what was read before."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> torch.Tensor:
        self.reads += 1
        return torch.tensor([float(self.reads)]) if index else torch.rand(1)


@pytest.mark.parametrize(
    ("dataset", "is_same"), [(TensorDataset(torch.arange(9.0)), True), (Drawing(), False)]
)
def test_samples_are_read_twice(dataset: Any, is_same: bool, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    trial = Trial(TrialSettings(steps=2, trace=str(tmp_path)), 1)
    trial.data(dataset, seed=0)
    (note,) = noted(tmp_path)
    assert note["samples"] == len(dataset)
    assert (note["first"] == note["again"]) is is_same
    assert torch.equal(torch.get_rng_state(), before)


def test_a_notice_goes_to_the_first_rank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, signum: sent.append((pid, signum)))
    settings = TrialSettings(steps=4, notice_at=2)
    for rank in (0, 1):
        for step in range(4):
            Trial(settings, rank).before_step(step)
    assert sent == [(os.getpid(), signal.SIGTERM)]
