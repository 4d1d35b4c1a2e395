"""What `--strategy auto` estimates, against what the processes of a training took."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = str(Path(__file__).parents[1] / "workers" / "memory_worker.py")
MODEL_BYTES = 12 * (1000 * 1000 + 1000) * 4
MOST, LEAST = 1.1, 0.85
"""Measured over estimated. Too low an estimate is the dangerous side."""

pytestmark = pytest.mark.timeout(300)


def check(folder: Path, strategy: str, ranks: int) -> None:
    for rank in range(ranks):
        found = json.loads((folder / f"{strategy}-{rank}.json").read_text())
        # Weights, gradients and Adam's two moments at the least, in as many shares.
        assert found["total"] > 4 * MODEL_BYTES / ranks
        for moment in ("total", "building"):
            ratio = found[moment] / found["estimated"][moment]
            assert LEAST <= ratio <= MOST, f"{strategy}, rank {rank}, {moment}: {found}"


def test_one_rank(python: Callable[..., Any], tmp_path: Path) -> None:
    done = python(WORKER, str(tmp_path), "single", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check(tmp_path, "single", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategies",
    [("ddp", "fsdp", "zero2", "zero3"), ("zero1",), ("fsdp:by-name", "zero3:by-name", "zero3")],
    ids=",".join,
)
def test_two_ranks(strategies: tuple[str, ...], launch: Callable[..., Any], tmp_path: Path) -> None:
    launched = launch("--nproc-per-node", "2", WORKER, str(tmp_path), ",".join(strategies))
    assert launched.wait(280) == 0, launched.stderr
    for strategy in strategies:
        check(tmp_path, strategy, 2)
    if "zero3:by-name" in strategies:
        # No whole model, neither to be cut nor to prove the layout with: one is half of what is.
        built = [
            json.loads((tmp_path / f"{strategy}-0.json").read_text())["building"]
            for strategy in ("zero3:by-name", "zero3")
        ]
        assert built[0] < built[1] - 0.8 * MODEL_BYTES
