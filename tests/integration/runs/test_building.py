"""How a model is built changes what it costs, and not what it learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

WORKER = str(Path(__file__).parents[1] / "workers" / "build_worker.py")
LARGEST_DIFFERENCE = 1e-6


@pytest.fixture(scope="module")
def truth(
    python: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """Four steps on one rank, plainly."""
    folder = tmp_path_factory.mktemp("truth")
    done = python(WORKER, str(folder), "single", "Awkward", "fp32", cwd=folder)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "single.safetensors")


def difference(found: Path, truth: dict[str, torch.Tensor]) -> float:
    tensors = load_file(found)
    assert tensors.keys() == truth.keys()
    return max(float((tensors[k] - truth[k]).abs().max()) for k in truth)


def test_hybrid_sharding_on_two_nodes_of_two_ranks(
    launch: Callable[..., Any], tmp_path: Path, truth: dict[str, torch.Tensor]
) -> None:
    recipe = {"hybrid_shard": True, "local_world_size": 2, "shard_blocks": "blocks.1,narrow"}
    launched = launch(
        "--nproc-per-node", "4", WORKER, str(tmp_path), "fsdp", "Awkward", "fp32", str(recipe)
    )
    assert launched.wait(100) == 0, launched.stderr
    assert "built fsdp blocks.1 narrow 2" in launched.stdout
    assert difference(tmp_path / "fsdp.safetensors", truth) <= LARGEST_DIFFERENCE
