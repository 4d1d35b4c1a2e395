"""A step in which nothing counts on any rank changes nothing, under every strategy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = str(Path(__file__).parents[1] / "workers" / "empty_worker.py")
SHORT = ((1, ("single",)), (2, ("ddp", "fsdp", "zero2")))
ON_ONE = ("single", "fsdp", "zero2", "zero3")
ON_TWO = ("ddp", "fsdp", "zero1", "zero2", "zero3", "accelerate")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "starts",
    [
        pytest.param(SHORT, id="short"),
        pytest.param(((1, ON_ONE), (2, ON_TWO)), id="all", marks=pytest.mark.slow),
    ],
)
def test_it_is_left_out_and_told(
    starts: tuple[tuple[int, tuple[str, ...]], ...], launch: Callable[..., Any], tmp_path: Path
) -> None:
    said = []
    for world_size, strategies in starts:
        launched = launch(
            "--nproc-per-node", str(world_size), WORKER, str(tmp_path), ",".join(strategies)
        )
        assert launched.wait(140) == 0, launched.stderr
        said.append(launched.stderr)
    names = [f"{s}-{world_size}" for world_size, strategies in starts for s in strategies]
    truth = torch.load(tmp_path / "single-1.pt")
    assert any(key.startswith("ema/") for key in truth[6])
    for name in names:
        states = torch.load(tmp_path / f"{name}.pt")
        assert all(torch.equal(states[2][key], states[3][key]) for key in truth[3]), name
        worst = max(float((states[6][k] - truth[6][k]).abs().max()) for k in truth[6])
        assert worst <= 1e-6, (name, worst)

        records = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6]
        assert [r["step"] for r in records if r.get("empty")] == [3]
        assert ["loss" in r and "grad_norm" in r for r in records] == [True] * 2 + [False] + (
            [True] * 3
        )
        events = [json.loads(line) for line in (tmp_path / name / "events.jsonl").open()]
        assert [(e["step"], e["so_far"]) for e in events if e["event"] == "empty step"] == [(2, 1)]
        assert [e for e in events if e["event"] == "end"][-1]["empty_steps"] == 1
    for world_size, strategies in starts:
        told = json.loads((tmp_path / f"told-{world_size}.json").read_text())
        for strategy in strategies:
            assert told[f"state {strategy}-{world_size}"] == 1
            never = told[f"never {strategy}-{world_size}"]
            assert never.startswith("in the first 10 steps nothing counted on any rank")
    assert all("step 2: nothing counted on any rank" in one for one in said)
