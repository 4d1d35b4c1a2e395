"""The memory of the first save is taken while the training continues."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = str(Path(__file__).parents[1] / "workers" / "first_save_worker.py")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("num_ranks", "strategies"), [(1, "single"), (2, "ddp,fsdp,zero2")])
def test_no_save_waits_for_its_memory(
    launch: Callable[..., Any], tmp_path: Path, num_ranks: int, strategies: str
) -> None:
    launched = launch("--nproc-per-node", str(num_ranks), WORKER, str(tmp_path), strategies)
    assert launched.wait(200) == 0, launched.stderr
    for rank in range(num_ranks):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert list(found) == strategies.split(",")
        for strategy, (threads, saved_step) in found.items():
            assert saved_step is not None, strategy
            assert threads == ["relaunch-staging"], strategy
