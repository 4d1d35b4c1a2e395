"""What a bridge says of versions and ranks, and how it names what a framework logs."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher import bridges
from launcher.bridges.hugging_face.texts import (
    asked_of,
    changed_asked,
    changed_ranks_text,
    over_text,
    unfit_text,
)
from launcher.bridges.leaving import leaving_text
from launcher.bridges.records import metrics_record
from launcher.bridges.versions import TRANSFORMERS

NOW = {"world_size": 3, "batch": 12}


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ({"world_size": 3, "batch": 12}, None),
        ({"world_size": 2, "batch": 12}, "the samples of each step are the same, their random"),
        (
            {"world_size": 2, "batch": 8},
            "the data at sample 204 instead of 136. The curve changes.",
        ),
        ({}, "was written without RelaunchCallback"),
    ],
)
def test_what_another_number_of_ranks_costs(before: dict[str, int], says: str | None) -> None:
    text = changed_ranks_text(before, NOW, 17)
    assert text is None if says is None else says in (text or "")


@pytest.mark.parametrize(
    ("sampler", "samples", "says"),
    [
        ("SeedableRandomSampler", 36, "the samples of each step are the same, their random"),
        ("SeedableRandomSampler", 37, "except for the last step of an epoch, which is filled up"),
        ("LengthGroupedSampler", 36, "is up to LengthGroupedSampler, so some may come twice"),
    ],
)
def test_the_order_may_depend_on_the_number_of_ranks(sampler: str, samples: int, says: str) -> None:
    now = {**NOW, "sampler": sampler, "samples": {"length": samples}}
    text = changed_ranks_text({"world_size": 2, "batch": 12}, now, 17)
    assert says in (text or "")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"learning_rate": 0.5}, "learning_rate: 0.1 -> 0.5: no effect, the optimizer goes on"),
        ({"seed": 7}, "seed: 42 -> 7: another order of the data, so some samples come twice"),
        ({"max_steps": 30}, "max_steps: 20 -> 30: counts from this step on"),
    ],
)
def test_a_changed_argument_is_told(change: dict[str, Any], says: str | None) -> None:
    args = {"learning_rate": 0.1, "seed": 42, "max_steps": 20}
    before = asked_of(SimpleNamespace(**args))
    found = changed_asked(before, asked_of(SimpleNamespace(**{**args, **change})))
    assert len(found) == (says is not None)
    assert all(str(says) in text for text in found)
    assert changed_asked({}, before) == []


@pytest.mark.parametrize(
    ("given", "strategy", "says"),
    [
        ({}, "fsdp", None),
        ({"save_only_model": True}, "ddp", "train on with a new optimizer"),
        ({"sync_ref_model": True}, "ddp", None),
        ({"sync_ref_model": True}, "fsdp", "is in shards that no checkpoint holds"),
    ],
)
def test_what_could_not_resume_is_refused(
    given: dict[str, bool], strategy: str, says: str | None
) -> None:
    text = unfit_text(SimpleNamespace(**given), strategy)
    assert text is None if says is None else says in (text or "")


@pytest.mark.parametrize(
    ("cause", "newest", "failure", "says"),
    [
        ("SIGTERM", 9, None, "notice (SIGTERM): saved step 9. The same command resumes the run."),
        (None, 4, "full", "step 9 could not be saved (full). The same command resumes from step 4"),
        ("SIGTERM", None, "full", "no checkpoint could be written (full): its 9 steps are lost."),
    ],
)
def test_what_a_leave_says(
    cause: str | None, newest: int | None, failure: str | None, says: str
) -> None:
    text = leaving_text(cause, step=9, newest=newest, failure=failure, folder=Path("out"))
    assert says in text
    assert text.startswith("preemption notice")


@pytest.mark.parametrize(
    ("version", "refused", "warned"),
    [
        ("4.57.1", True, False),
        ("5.22.0", True, False),
        ("5.23.0", False, False),
        ("5.24.1", False, False),
        ("5.25.0.dev0", False, True),
        ("6.0", False, True),
        ("unknown", True, False),
    ],
)
def test_versions(version: str, refused: bool, warned: bool) -> None:
    refusal = TRANSFORMERS.refusal("RelaunchCallback", version)
    warning = TRANSFORMERS.warning("RelaunchCallback", version)
    assert (refusal is not None, warning is not None) == (refused, warned)
    assert refusal is None or "pip install --upgrade 'relaunch[hf]'" in refusal


def test_a_missing_framework_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(bridges, "version", version)
    with pytest.raises(ImportError, match=r"is not installed\. Run: pip install 'relaunch\[hf\]'"):
        _ = bridges.RelaunchCallback
    with pytest.raises(ImportError, match=r"pip install 'relaunch\[lightning\]'"):
        _ = bridges.RelaunchLightning
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = bridges.Nonsense


def test_the_folder_is_imported_without_any_framework() -> None:
    code = (
        "import sys, launcher.bridges, launcher.bridges.hugging_face.checkpoints as c;"
        "print(*sorted({'torch', 'numpy', 'transformers', 'lightning'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    imported = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert imported.stdout == "\n"


@pytest.mark.parametrize(
    ("sealed", "step", "max_steps", "says"),
    [
        ({}, 5, 10, None),
        ({"has_ended": False}, 5, 10, None),
        ({"has_ended": True}, 5, 10, "it stopped early at step 5. To train on, set"),
        ({}, 10, 10, "10 of 10 steps were done."),
        ({}, 10, 20, None),
    ],
)
def test_a_training_that_had_ended_is_not_resumed(
    sealed: dict[str, bool], step: int, max_steps: int, says: str | None
) -> None:
    text = over_text(sealed, step, max_steps)
    assert text is None if says is None else says in (text or "")


def test_logs_become_records() -> None:
    logs = {"loss": 0.5, "learning_rate": 1e-3, "epoch": 0.25, "grad_norm": float("nan")}
    assert metrics_record(logs) == {"loss": 0.5, "lr": 1e-3, "epoch": 0.25}
    assert metrics_record({"eval_loss": 1.0, "eval_runtime": 2, "note": "x", "ok": True}) == {
        "eval/loss": 1.0,
        "eval/runtime": 2,
    }
    assert metrics_record({"train_runtime": 3.0, "train_loss": 1.0}) == {}
