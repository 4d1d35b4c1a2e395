"""A frozen int8 base with a trained adapter: one curve, and the base bit for bit, everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

WORKER = str(Path(__file__).parents[1] / "workers" / "int8_worker.py")
STRATEGIES = ("ddp", "zero1", "zero2", "fsdp", "zero3", "fsdp+zero2")
LARGEST_DIFFERENCE = 1e-6


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_int8_base_under_every_strategy(launch: Callable[..., Any], tmp_path: Path) -> None:
    for ranks, named in ((1, ("single",)), (2, STRATEGIES)):
        done = launch("--nproc-per-node", str(ranks), WORKER, str(tmp_path), ",".join(named))
        assert done.wait(190) == 0, done.stderr
    truth = load_file(tmp_path / "single-1.safetensors")
    assert truth["param/layer.codes"].dtype == torch.int8
    for one in STRATEGIES:
        found = load_file(tmp_path / f"{one}-2.safetensors")
        assert found.keys() == truth.keys()
        for name, tensor in truth.items():
            apart = (found[name].double() - tensor.double()).abs().max()
            assert apart <= (LARGEST_DIFFERENCE if name.startswith("fp32/") else 0), (one, name)
