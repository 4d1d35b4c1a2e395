"""On three ranks a sum depends on the order in which its numbers are added: a resume finds it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = str(Path(__file__).parents[1] / "workers" / "three_ranks_worker.py")
STRATEGIES = "ddp,accelerate,fsdp,zero1,zero2,zero3"


@pytest.mark.timeout(300)
def test_a_resumed_run_has_the_same_bits(launch: Callable[..., Any], tmp_path: Path) -> None:
    launched = launch("--nproc-per-node", "3", WORKER, str(tmp_path), STRATEGIES)
    assert launched.wait(280) == 0, launched.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == {strategy: {} for strategy in STRATEGIES.split(",")}
