"""What is read of a script's own files at the end of its run, and how two of them are compared."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launcher.commands.rehearse.evidence import (
    Evidence,
    distance_of,
    evidence_of,
    last_recorded,
    last_weights,
)


def written(path: Path, *, at_s: int, **tensors: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    os.utime(path, (at_s, at_s))


def run_of(folder: Path, value: float = 1.0) -> Evidence:
    for step in (9, 10):  # 10 was written last, whatever comes first in the alphabet
        for part in (1, 2):
            path = folder / "trainer" / f"checkpoint-{step}" / f"model-{part}.safetensors"
            written(path, at_s=step, w=torch.full((2,), value * step * part))
    return evidence_of(folder, folder / "trace")


def test_the_files_that_were_written_last(tmp_path: Path) -> None:
    assert last_weights(tmp_path) == ()
    found = run_of(tmp_path)
    names = [f"trainer/checkpoint-10/model-{part}.safetensors" for part in (1, 2)]
    assert list(found.weights) == names
    assert found.is_saved
    assert not Evidence(run_dir=tmp_path).is_saved


def test_the_same_bytes_are_no_distance(tmp_path: Path) -> None:
    left, right = run_of(tmp_path / "a"), run_of(tmp_path / "b")
    assert distance_of(left, right, uses_run=False).largest == 0.0


@pytest.mark.parametrize(("value", "largest"), [(1.5, 10.0), (float("nan"), float("inf"))])
def test_the_largest_distance_and_where_it_is(value: float, largest: float, tmp_path: Path) -> None:
    left, right = run_of(tmp_path / "a", value), run_of(tmp_path / "b")
    found = distance_of(left, right, uses_run=False)
    assert found.largest == largest
    assert found.tensor is not None
    assert found.tensor.startswith("trainer/checkpoint-10/model-")


def test_a_file_or_a_tensor_is_missing(tmp_path: Path) -> None:
    left, right = run_of(tmp_path / "a"), run_of(tmp_path / "b")
    path = tmp_path / "a" / "trainer" / "checkpoint-10" / "model-2.safetensors"
    written(path, at_s=10, other=torch.zeros(2))
    assert "tensor other" in (distance_of(left, right, uses_run=False).trouble or "")
    path.unlink()
    assert "there is no final" in (distance_of(left, right, uses_run=False).trouble or "")


def test_the_last_recorded_step(tmp_path: Path) -> None:
    assert last_recorded(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n{"step": 10}\n{"ste')
    assert last_recorded(tmp_path) == 10


@pytest.mark.parametrize(
    ("events", "elsewhere"),
    [
        ([], False),
        ([{"event": "start", "resumed": False}, {"event": "start", "resumed": True}], False),
        ([{"event": "launched"}, {"event": "start", "resumed": True}], True),
    ],
)
def test_a_first_start_that_resumes_has_come_from_elsewhere(
    events: list[dict[str, object]], elsewhere: bool, tmp_path: Path
) -> None:
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    assert evidence_of(tmp_path, tmp_path / "trace").resumed_elsewhere is elsewhere
