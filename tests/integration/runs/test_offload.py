"""Offloaded ZeRO: other ways through DeepSpeed, the same numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

WORKER = str(Path(__file__).parents[1] / "workers" / "offload_worker.py")
ZERO = ("zero1", "zero2", "zero3")


def difference(one: Path, other: Path) -> float:
    left, right = load_file(one), load_file(other)
    assert left.keys() == right.keys()
    return max(float((left[k].double() - right[k].double()).abs().max()) for k in left)


def grad_norms(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line)["grad_norm"] for line in lines]
    assert len(found) == 8
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_numbers_and_checkpoints(
    precision: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    launched = launch("--nproc-per-node", "2", WORKER, str(tmp_path), precision)
    assert launched.wait(280) == 0, launched.stderr
    for strategy in ZERO:
        plain, offloaded = (tmp_path / f"{strategy}{e}.safetensors" for e in ("", "-offloaded"))
        assert difference(plain, offloaded) <= 1e-6, strategy
        norms = grad_norms(tmp_path / strategy)
        assert grad_norms(tmp_path / f"{strategy}-offloaded") == pytest.approx(norms, rel=1e-5)
    if precision == "fp32":
        # Saved offloaded, gone on without, and the other way round.
        truth = tmp_path / "ddp.safetensors"
        for name in ("zero1-offloaded", "chain"):
            assert difference(tmp_path / f"{name}.safetensors", truth) <= 1e-6, name
