"""`relaunch compare`: where two runs part."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from launcher.commands.compare import first_difference, run
from launcher.errors import UsageError

RunFolder = Callable[..., Path]


def record(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "time": float(step), "attempt": 1, "loss": 1.0 / step, **values}


@pytest.fixture(name="run_folder")
def _run_folder(kit: ModuleType) -> RunFolder:
    """Make a run with records, and a checkpoint for each of s10=..., with one weight."""

    def make(path: Path, records: Sequence[dict[str, Any]], **weights: float) -> Path:
        path.mkdir()
        (path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
        for name, weight in weights.items():
            tensor = torch.full((3, 4), weight)
            kit.save(path / "checkpoints", int(name[1:]), {"fp32/fc.weight": tensor})
        return path

    return make


def test_equal_runs(
    run_folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = run_folder(tmp_path / "a", [record(1), record(2)], s10=1.0, s20=2.0)
    theirs = run_folder(tmp_path / "b", [record(1, attempt=3, time=9.0), record(2)], s20=2.0)
    assert run([str(ours), str(theirs)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "records: equal to step 2 (2 common records)",
        "checkpoints: equal bits to step 20 (1 common checkpoint)",
    ]


def test_the_first_difference_of_each_is_named(
    run_folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = run_folder(tmp_path / "a", [record(n) for n in (1, 2, 3)], s10=1.0, s20=2.0, s30=3.0)
    changed = [record(1), record(2, loss=0.25), record(3, loss=7.0)]
    theirs = run_folder(tmp_path / "b", changed, s10=1.0, s20=2.5, s30=9.0)
    assert run([str(ours), str(theirs)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "records: differ first at step 2: loss 0.5 and 0.25",
        "checkpoints: differ first at step 20: fp32/fc.weight; the first by at most 0.5",
    ]
    assert run(["--json", str(ours), str(theirs)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["records"] == {"step": 2, "values": {"loss": [0.5, 0.25]}}
    assert told["tensors"] == {"step": 20, "tensors": ["fp32/fc.weight"], "largest": 0.5}
    assert told["last_checkpoint"] == 10


def test_another_shape_is_a_difference(
    run_folder: RunFolder, kit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = run_folder(tmp_path / "a", [record(1)], s10=1.0)
    theirs = run_folder(tmp_path / "b", [record(1)])
    kit.save(theirs / "checkpoints", 10, {"fp32/fc.weight": torch.zeros(2)})
    assert run(["--json", str(ours), str(theirs)]) == 1
    assert json.loads(capsys.readouterr().out)["tensors"]["largest"] == "inf"


def test_a_number_that_one_run_lacks_is_a_difference() -> None:
    found = first_difference({1: record(1, val=3.0)}, {1: record(1)})
    assert found is not None
    assert found.values == {"val": (3.0, None)}
    assert first_difference({1: record(1)}, {2: record(2)}) is None


def test_what_cannot_be_compared(run_folder: RunFolder, tmp_path: Path) -> None:
    ours = run_folder(tmp_path / "a", [record(1)])
    with pytest.raises(UsageError, match="no run folder"):
        run([str(ours), str(tmp_path)])
    theirs = run_folder(tmp_path / "b", [record(2)], s10=1.0)
    with pytest.raises(UsageError, match="no step in common"):
        run([str(ours), str(theirs)])


def test_a_damaged_checkpoint_is_named(
    run_folder: RunFolder, kit: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ours = run_folder(tmp_path / "a", [record(1)], s10=1.0)
    theirs = run_folder(tmp_path / "b", [record(1)], s10=2.0)
    (shard,) = (theirs / "checkpoints").glob("step-*/*.safetensors")
    kit.damage(shard)
    assert run([str(ours), str(theirs)]) == 1
    assert shard.name in capfd.readouterr().err


def test_a_digest_counts_where_both_have_one() -> None:
    one = {1: record(1, weights_digest="00"), 2: record(2, weights_digest="aa")}
    saved_elsewhere = {1: record(1), 2: record(2, weights_digest="aa")}
    assert first_difference(one, saved_elsewhere) is None
    found = first_difference(one, {1: record(1), 2: record(2, weights_digest="ab")})
    assert found is not None
    assert (found.step, dict(found.values)) == (2, {"weights_digest": ("aa", "ab")})
