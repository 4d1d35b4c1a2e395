"""Optimizers that need whole matrices: one curve under every strategy, here and elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

WORKER = str(Path(__file__).parents[1] / "workers" / "optimizer_worker.py")
CASES = ("matrices", "factored")
LARGEST_DIFFERENCE = 1e-6
STRATEGIES = ("ddp", "fsdp", "zero1", "zero2", "zero3", "fsdp+zero2", "zero3+fsdp", "ddp+zero1")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_twenty_steps_on_up_to_four_ranks(
    world_size: int, launch: Callable[..., Any], tmp_path: Path
) -> None:
    for ranks, named in ((1, ("single",)), (world_size, STRATEGIES)):
        to = (str(tmp_path), ",".join(named), "20", ",".join(CASES))
        launched = launch("--nproc-per-node", str(ranks), WORKER, *to)
        assert launched.wait(280) == 0, launched.stderr
    for case in CASES:
        truth = load_file(tmp_path / f"{case}-single-1.safetensors")
        for one in STRATEGIES:
            found = load_file(tmp_path / f"{case}-{one}-{world_size}.safetensors")
            apart = max(float((found[k] - truth[k]).abs().max()) for k in truth)
            assert apart <= LARGEST_DIFFERENCE, (case, one, world_size)
