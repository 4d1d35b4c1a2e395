"""Buffers that a forward moves: in the defined order of the micro-batches, or told by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = str(Path(__file__).parents[1] / "workers" / "buffers_worker.py")
SHORT = ((1, "single"), (2, "ddp,zero3"))
ALL = ((1, "single,fsdp,zero2"), (2, "ddp,fsdp,zero1,zero2,zero3,accelerate"), (3, "ddp"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "starts_of",
    [pytest.param(SHORT, id="short"), pytest.param(ALL, id="all", marks=pytest.mark.slow)],
)
def test_they_are_computed_in_order_or_told(
    starts_of: tuple[tuple[int, str], ...], launch: Callable[..., Any], tmp_path: Path
) -> None:
    notes, said = {}, []
    for world_size, strategies in starts_of:
        launched = launch("--nproc-per-node", str(world_size), WORKER, str(tmp_path), strategies)
        assert launched.wait(280) == 0, launched.stderr
        notes |= json.loads((tmp_path / f"notes-{world_size}.json").read_text())
        said.append(launched.stderr)
    starts = [f"{s}-{n}" for n, strategies in starts_of for s in strategies.split(",")]

    def difference(one: str, other: str) -> float:
        found, wanted = torch.load(tmp_path / f"{one}.pt"), torch.load(tmp_path / f"{other}.pt")
        assert found.keys() == wanted.keys()
        return max(float((found[k].double() - wanted[k].double()).abs().max()) for k in wanted)

    wanted = torch.load(tmp_path / "ordered-single-1.pt")
    assert {k for k in wanted if k.endswith(("_u", "_v"))} == {
        "buffer/blocks.0.inner.parametrizations.weight.0._u",
        "buffer/blocks.0.inner.parametrizations.weight.0._v",
        "buffer/blocks.1.inner.weight_u",
        "buffer/blocks.1.inner.weight_v",
    }
    assert bool((wanted["buffer/frozen.running_var"] == 2.0).all())
    assert int(wanted["buffer/blocks.0.batch.num_batches_tracked"]) == 5 + 5 + 2 + 5 + 5
    for start in starts:
        for name in ("ordered", "plain", "loop", "rotary"):
            assert difference(f"{name}-{start}", f"{name}-single-1") <= 1e-6, (name, start)
            assert notes[f"{name}-{start}"] == [], name
        # Computed again in the backward, and moved once.
        assert difference(f"again-{start}", f"plain-{start}") <= 1e-6, start
        assert notes[f"again-{start}"] == []
        (told,) = notes[f"counting-{start}"]
        assert told.startswith("the model's forward updates forwards, inner.mean, on each rank")
    assert difference("counting-ddp-2", "counting-single-1") >= 1
    assert all("warning: the model's forward updates forwards, inner.mean," in one for one in said)
