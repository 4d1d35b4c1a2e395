"""torch's schedulers that cycle momentum have their way under every strategy, and in a resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

WORKER = str(Path(__file__).parents[1] / "workers" / "cycle_worker.py")
LAST = 9  # the step before which a group was last set


def in_torch(case: str) -> list[float]:
    """Rate and momentum of a plain optimizer before its last step."""
    parameter = [torch.nn.Parameter(torch.zeros(()))]
    optimizer: Any
    if case == "adam":
        optimizer = torch.optim.Adam(parameter, lr=1e-3)
        scheduler: Any = OneCycleLR(optimizer, 5e-3, total_steps=13)
    else:
        optimizer = torch.optim.SGD(parameter, lr=0.05, momentum=0.9)
        scheduler = CyclicLR(optimizer, 0.01, 0.05, step_size_up=3)
    for _ in range(LAST):
        optimizer.step()
        scheduler.step()
    (group,) = optimizer.param_groups
    return [group["lr"], group["betas"][0] if case == "adam" else group["momentum"]]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_momentum_is_cycled_under_every_strategy(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    truth, others = ("single", "still-single"), ("fsdp", "zero2", "zero3+fsdp", "fsdp+zero1")
    for world_size, named in ((1, truth), (2, others)):
        launched = launch(
            "--nproc-per-node", str(world_size), WORKER, str(tmp_path), ",".join(named)
        )
        assert launched.wait(115) == 0, launched.stderr
    for case in ("adam", "sgd"):
        wanted = load_file(tmp_path / f"{case}-single.safetensors")
        still = load_file(tmp_path / f"{case}-still-single.safetensors")
        assert max(float((still[k] - wanted[k]).abs().max()) for k in wanted) > 1e-4
        for name in ("single", *others):
            found = load_file(tmp_path / f"{case}-{name}.safetensors")
            assert found.keys() == wanted.keys()
            assert max(float((found[k] - wanted[k]).abs().max()) for k in wanted) <= 2e-6, name
            held = json.loads((tmp_path / f"{case}-{name}.json").read_text())
            assert held == pytest.approx(in_torch(case), rel=1e-12), name
