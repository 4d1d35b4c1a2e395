"""Steps that cannot be applied: all ranks go back together, and around the data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = str(Path(__file__).parents[1] / "workers" / "rollback_worker.py")


@pytest.mark.timeout(240)
def test_a_run_goes_back_and_around_a_window(launch: Callable[..., Any], tmp_path: Path) -> None:
    for world_size, strategies in ((1, "single"), (2, "fsdp,zero2")):
        options = ("--nproc-per-node", str(world_size))
        launched = launch(*options, WORKER, str(tmp_path), strategies)
        assert launched.wait(110) == 0, launched.stderr
    truth = torch.load(tmp_path / "single-1.pt")
    for name in ("single-1", "fsdp-2", "zero2-2"):
        strategy, world_size = name.split("-")
        found = json.loads((tmp_path / f"found-{world_size}.json").read_text())[strategy]
        # Steps 5, 6 and 7 were skipped. Step 4 is the newest checkpoint from before, and the
        # data from 4 to 7 is left out; 8 is bad too, but alone.
        (event,) = found["rolled back"]
        assert (event["from_step"], event["step"], event["jumped_steps"]) == (8, 4, 4)
        assert event["jumped_data_steps"] == [4, 7]
        assert found["jumps"] == [[4, 4]]
        assert found["steps"] == sorted(set(found["steps"]))
        assert found["checkpoints"][0] == 12
        weights = torch.load(tmp_path / f"{name}.pt")
        assert max(float((weights[k] - truth[k]).abs().max()) for k in truth) <= 1e-6
