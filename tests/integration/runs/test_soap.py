"""SOAP and Shampoo of pytorch-optimizer: under every strategy one curve, of the same gradients.

The library is no part of the test environment; put a folder with it into PYTHONPATH.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

WORKER = str(Path(__file__).parents[1] / "workers" / "soap_worker.py")
STRATEGIES = ("ddp", "fsdp", "zero1", "zero2", "zero3", "fsdp+zero2")
NOT_ON_THREE = "hybrid"
STEPS = "20"
LARGEST_DIFFERENCE = 1e-6


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("optimizer", ["SOAP", "Shampoo"])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_twenty_steps(
    world_size: int, optimizer: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    library = pytest.importorskip("pytorch_optimizer")
    site = str(Path(library.__file__).parents[1])
    named = STRATEGIES if world_size == 3 else (*STRATEGIES, NOT_ON_THREE)
    for ranks, strategies in ((1, ("single",)), (world_size, named)):
        words = (str(tmp_path), ",".join(strategies), STEPS, site, optimizer)
        launched = launch("--nproc-per-node", str(ranks), WORKER, *words)
        assert launched.wait(800) == 0, launched.stderr
    truth = load_file(tmp_path / "single-1.safetensors")
    for one in named:
        found = load_file(tmp_path / f"{one}-{world_size}.safetensors")
        assert found.keys() == truth.keys()
        for name, tensor in truth.items():
            assert float((found[name] - tensor).abs().max()) <= LARGEST_DIFFERENCE, (one, name)
