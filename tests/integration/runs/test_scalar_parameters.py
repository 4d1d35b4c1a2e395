"""Parameters of no dimension, such as CLIP's logit_scale: one curve, and checkpoints that move."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = str(Path(__file__).parents[1] / "workers" / "scalar_worker.py")
ON_ONE = ("single", "fsdp", "zero1", "zero2", "zero3")
ON_TWO = ("ddp", "fsdp", "zero1", "zero2", "zero3", "accelerate")
SCALARS = ("blocks.0.gain", "blocks.1.gain", "late", "logit_scale")


def norms(folder: Path) -> list[float]:
    return [json.loads(line)["grad_norm"] for line in (folder / "metrics.jsonl").open()]


@pytest.mark.timeout(600)
def test_they_train_and_move_under_every_strategy(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    # Moved between strategies and numbers of ranks after every second step.
    for world_size, strategies, chain in (
        (1, ON_ONE, "fsdp"),
        (2, ON_TWO, "zero3,ddp,zero1,fsdp"),
        (1, (), "single"),
    ):
        launched = launch(
            "--nproc-per-node", str(world_size), WORKER, str(tmp_path), ",".join(strategies), chain
        )
        assert launched.wait(280) == 0, launched.stderr
    wanted, shapes = torch.load(tmp_path / "single-1.pt")
    for name in SCALARS:
        for key in ("fp32", "ema", "exp_avg", "exp_avg_sq"):
            assert shapes[f"{key}/{name}"] == ()
    assert shapes["param/fixed"] == ()
    assert "fp32/blocks.2.gain" not in shapes
    plain = [f"{s}-1" for s in ON_ONE] + [f"{s}-2" for s in ON_TWO] + ["hybrid", "together"]
    for name in plain:
        found, their_shapes = torch.load(tmp_path / f"{name}.pt")
        assert their_shapes == shapes, name
        worst = max(float((found[k] - wanted[k]).abs().max()) for k in wanted)
        assert worst <= 1e-6, (name, worst)
        assert norms(tmp_path / name) == pytest.approx(norms(tmp_path / "single-1"), rel=1e-5)
    truth, _ = torch.load(tmp_path / "truth.pt")
    moved, _ = torch.load(tmp_path / "chain.pt")
    assert moved.keys() == truth.keys()
    assert max(float((moved[k] - truth[k]).abs().max()) for k in truth) <= 1e-6
    assert norms(tmp_path / "chain") == pytest.approx(norms(tmp_path / "truth"), rel=1e-5)
    by_name, _ = torch.load(tmp_path / "single-1-by-name.pt")
    for name in ("fsdp-1", "zero2-1", "zero3-1", "fsdp-2", "zero2-2", "zero3-2"):
        found, _ = torch.load(tmp_path / f"{name}-by-name.pt")
        worst = max(float((found[k] - by_name[k]).abs().max()) for k in found)
        assert worst <= 1e-6, (name, worst)
    ddp, _ = torch.load(tmp_path / "ddp-2-bf16.pt")
    for name in ("fsdp-2-bf16", "zero3-2-bf16"):
        found, _ = torch.load(tmp_path / f"{name}.pt")
        for scalar in SCALARS:
            key = f"fp32/{scalar}"
            assert float(found[key]) == pytest.approx(float(ddp[key]), abs=2e-3), (name, scalar)
