"""Several models and optimizers, and losses over all ranks, in a script's own loop."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(200)
SCRIPT = str(Path(__file__).parents[1] / "workers" / "own_loop_several.py")


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


def undisturbed(python: Callable[..., Any], folder: Path, kind: str) -> dict[int, float]:
    folder.mkdir()
    assert python(SCRIPT, kind, "plain", cwd=folder).returncode == 0
    return losses(folder / "runs" / "own_loop_several")


def moved(launch: Any, folder: Path, kind: str, *parts: tuple[int, str]) -> dict[int, float]:
    """Train on some ranks, leave after step 7, and train on as others."""
    for number, (ranks, wrap) in enumerate(parts):
        given = [kind, wrap, *(["7"] if number == 0 else [])]
        size = ("--nproc-per-node", str(ranks), "--run-dir", str(folder))
        started = launch(*size, SCRIPT, *given)
        assert started.wait(150) == (75 if number == 0 else 0), started.stderr
    return losses(folder)


def test_two_optimizers_move_from_ddp_to_fully_shard(
    launch: Any, python: Callable[..., Any], tmp_path: Path
) -> None:
    whole = undisturbed(python, tmp_path / "whole", "gan")
    assert len(whole) == 15
    found = moved(launch, tmp_path / "r", "gan", (2, "ddp"), (2, "fsdp"))
    assert found == pytest.approx(whole, abs=1e-6)
    record = json.loads((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {name: v for name, v in record.items() if name.startswith("lr")} == {
        "lr": 0.01,
        "lr.made": 0.01,
        "lr.judge": 0.01,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("gan", (2, "zero1"), (2, "ddp")),
        ("gan", (2, "fsdp"), (1, "plain")),
        ("gan", (2, "ddp"), (2, "ddp")),
        ("distill", (2, "ddp"), (2, "fsdp")),
        ("distill", (2, "fsdp"), (1, "plain")),
        ("contrast", (2, "ddp"), (2, "fsdp")),
        ("contrast", (1, "plain"), (2, "ddp")),
    ],
)
def test_each_moves(
    kind: str,
    first: tuple[int, str],
    second: tuple[int, str],
    launch: Any,
    python: Callable[..., Any],
    tmp_path: Path,
) -> None:
    if "zero" in first[1] + second[1]:
        pytest.importorskip("deepspeed")
    whole = undisturbed(python, tmp_path / "whole", kind)
    assert moved(launch, tmp_path / "r", kind, first, second) == pytest.approx(whole, abs=1e-6)
