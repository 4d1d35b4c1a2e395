"""Penalties, parameters that are unfrozen later, and averages: the same under every strategy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = str(Path(__file__).parents[1] / "workers" / "extras_worker.py")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_penalty_unfreezing_and_average(launch: Callable[..., Any], tmp_path: Path) -> None:
    for world_size in (1, 2):
        launched = launch("--nproc-per-node", str(world_size), WORKER, str(tmp_path))
        assert launched.wait(110) == 0, launched.stderr
    by_step = torch.load(tmp_path / "by_step.pt")
    name = "blocks.0.weight"
    held = [one[f"fp32/{name}"] for one in by_step[:3]]
    assert torch.equal(held[0], held[2])
    assert all(f"exp_avg/{name}" not in one for one in by_step[:3])
    assert not torch.equal(held[2], by_step[3][f"fp32/{name}"])

    # The averages by their definition, from the weights after each step.
    for fqn, first in (("narrow.weight", 0), (name, 3)):
        average = by_step[first][f"fp32/{fqn}"].clone()
        for one in by_step[first + 1 :]:
            average = 0.9 * average + 0.1 * one[f"fp32/{fqn}"]
        torch.testing.assert_close(by_step[-1][f"ema/{fqn}"], average, rtol=1e-5, atol=1e-6)
        exported = torch.load(tmp_path / "exported.pt")[fqn]
        assert torch.equal(exported.flatten(), by_step[-1][f"ema/{fqn}"])

    zero = ("zero1", "zero2", "zero3", "chain")
    for truth, others in (
        ("single", ("moved", "accelerate", *zero)),
        ("single-ema", ("moved-ema",)),
    ):
        wanted = torch.load(tmp_path / f"{truth}.pt")
        assert any(key.startswith("ema/") for key in wanted)
        for other in others:
            found = torch.load(tmp_path / f"{other}.pt")
            assert found.keys() == wanted.keys()
            assert max(float((found[k] - wanted[k]).abs().max()) for k in wanted) <= 1e-6, other

    norms = grad_norms(tmp_path / "single")
    for other in ("moved", *zero):
        assert grad_norms(tmp_path / other) == pytest.approx(norms, rel=1e-5), other

    told = json.loads((tmp_path / "told.json").read_text())
    assert "ZeRO keeps one counter a group" in told["mixed"]
    assert told["dropped"] == []
    assert "pass run.prepare(ema=EMA())" in told["ema"]
    assert told["worst"] == 'unknown weights "worst"; choose from best, ema, last.'
    assert "step-00000002 holds no average of the weights" in told["no average"]

    # The averages can be measured under every strategy, and the last weights after them again.
    last, ema, again = json.loads((tmp_path / "tested-1.json").read_text())
    assert last == again
    assert abs(ema - last) > 1e-4
    for found in (*(json.loads((tmp_path / f"tested-2-{r}.json").read_text()) for r in (0, 1)),):
        assert found == pytest.approx([last, ema, last], abs=1e-5)
    assert told["fsdp"] == pytest.approx([last, ema, last], abs=1e-5)


def grad_norms(folder: Path) -> list[float]:
    """The norm of every step, as the run has recorded it."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line)["grad_norm"] for line in lines]
    assert len(found) == 8
    return found
