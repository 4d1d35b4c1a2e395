"""Optimizers that need whole matrices: one curve under every strategy, here and elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

WORKER = str(Path(__file__).parents[1] / "workers" / "optimizer_worker.py")
CASES = ("matrices", "factored", "preconditioned")
LARGEST_DIFFERENCE = 1e-6
STRATEGIES = ("ddp", "fsdp", "zero1", "zero2", "zero3", "fsdp+zero2", "zero3+fsdp", "ddp+zero1")
NOT_ON_THREE = "hybrid"
CUT = ("fsdp", "zero2", "zero3")
LARGEST_DIFFERENCES = {"ema": 1e-6, "unfreeze": 1e-6, "bf16": 0.05}

Run = Callable[..., None]


@pytest.fixture
def run(launch: Callable[..., Any], tmp_path: Path) -> Run:
    def run(ranks: int, strategies: tuple[str, ...], steps: int, *cases: str) -> None:
        for one in strategies:  # a launch each, so that a busy machine has time for it
            words = (str(tmp_path), one, str(steps), ",".join(cases))
            launched = launch("--nproc-per-node", str(ranks), WORKER, *words)
            assert launched.wait(400) == 0, launched.stderr

    return run


def apart(folder: Path, case: str, one: str, ranks: int, truth: str = "single") -> float:
    left = load_file(folder / f"{case}-{truth}-1.safetensors")
    right = load_file(folder / f"{case}-{one}-{ranks}.safetensors")
    assert left.keys() == right.keys()
    return max(float((right[k] - left[k]).abs().max()) for k in left)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_twenty_steps_on_up_to_four_ranks(world_size: int, run: Run, tmp_path: Path) -> None:
    named = STRATEGIES if world_size == 3 else (*STRATEGIES, NOT_ON_THREE)
    run(1, ("single",), 20, *CASES)
    run(world_size, named, 20, *CASES)
    for case in CASES:
        for one in named:
            assert apart(tmp_path, case, one, world_size) <= LARGEST_DIFFERENCE, (case, one)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("modifier", LARGEST_DIFFERENCES)
def test_with_averages_unfreezing_and_bf16(modifier: str, run: Run, tmp_path: Path) -> None:
    truth, named = f"single~{modifier}", tuple(f"{one}~{modifier}" for one in CUT)
    run(1, (truth,), 6, "matrices")
    run(2, named, 6, "matrices")
    for one in named:
        assert apart(tmp_path, "matrices", one, 2, truth) <= LARGEST_DIFFERENCES[modifier], one
