"""What a bridge says of versions and ranks, and how it names what a framework logs."""

import subprocess
import sys

import pytest

from launcher import bridges
from launcher.bridges.records import metrics_record
from launcher.bridges.trainer_texts import changed_ranks_text
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
def test_what_another_number_of_ranks_costs(before, says):
    text = changed_ranks_text(before, NOW, 17)
    assert text is None if says is None else says in (text or "")


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
def test_versions(version, refused, warned):
    refusal = TRANSFORMERS.refusal("RelaunchCallback", version)
    warning = TRANSFORMERS.warning("RelaunchCallback", version)
    assert (refusal is not None, warning is not None) == (refused, warned)
    assert refusal is None or "pip install --upgrade 'relaunch[hf]'" in refusal


def test_a_missing_framework_is_named_with_its_remedy(monkeypatch):
    def version(name):
        raise bridges.PackageNotFoundError(name)

    monkeypatch.setattr(bridges, "version", version)
    with pytest.raises(ImportError, match=r"is not installed\. Run: pip install 'relaunch\[hf\]'"):
        _ = bridges.RelaunchCallback
    with pytest.raises(ImportError, match=r"pip install 'relaunch\[lightning\]'"):
        _ = bridges.RelaunchLightning
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = bridges.Nonsense


def test_the_folder_is_imported_without_any_framework():
    code = (
        "import sys, launcher.bridges, launcher.bridges.trainer_checkpoints as c;"
        "print(*sorted({'torch', 'numpy', 'transformers', 'lightning'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    imported = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert imported.stdout == "\n"


def test_logs_become_records():
    logs = {"loss": 0.5, "learning_rate": 1e-3, "epoch": 0.25, "grad_norm": float("nan")}
    assert metrics_record(logs) == {"loss": 0.5, "lr": 1e-3, "epoch": 0.25}
    assert metrics_record({"eval_loss": 1.0, "eval_runtime": 2, "note": "x", "ok": True}) == {
        "eval/loss": 1.0,
        "eval/runtime": 2,
    }
    assert metrics_record({"train_runtime": 3.0, "train_loss": 1.0}) == {}
