"""A run that an earlier version has left is resumed by this one; its folder holds the same files.

`recorded/run-VERSION` was written by `recorded_run_worker.py` under fsdp on two ranks: a checkpoint
at step 4, the best weights until then, and what the undisturbed run exported after step 8.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).parents[2]
TRAIN = str(TESTS / "integration" / "workers" / "recorded_run_worker.py")
RECORDED = TESTS / "contract" / "recorded"
FILES = {
    ".lock",
    "best/step-N/manifest.json",
    "best/step-N/rN.safetensors",
    "checkpoints/step-N/manifest.json",
    "checkpoints/step-N/rN.safetensors",
    "events.jsonl",
    "export/model.safetensors",
    "logs/attempt-N/rank-N.log",
    "metrics.jsonl",
    "run.json",
}


@pytest.mark.parametrize("strategy", ["single", "ddp", "zero2"])
@pytest.mark.parametrize("recorded", sorted(RECORDED.glob("run-*")), ids=lambda path: path.name)
def test_a_recorded_run_is_resumed(
    recorded: Path, strategy: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(recorded, folder)
    ranks = "1" if strategy == "single" else "2"
    words = ("--nproc-per-node", ranks, "--strategy", strategy, "--run-dir", str(folder))
    launched = launch(*words, TRAIN)
    assert launched.wait(100) == 0, launched.stderr
    assert "step 4" in launched.stdout
    expected = load_file(recorded / "expected.safetensors")
    found = load_file(folder / "export" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_files_of_a_run_folder(launch: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    launched = launch("--nproc-per-node", "2", "--run-dir", str(folder), TRAIN)
    assert launched.wait(100) == 0, launched.stderr
    paths = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert {re.sub(r"\d+", "N", path) for path in paths} == FILES
