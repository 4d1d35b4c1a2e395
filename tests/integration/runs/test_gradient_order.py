"""The order in which gradients come in a backward may be another on every rank."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Seen

WORKER = str(Path(__file__).parents[1] / "workers" / "order_worker.py")
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("ddp", "fsdp", "zero1")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("strategy", ["zero2", *OTHERS])
def test_layers_that_swap_train_as_on_one_rank(
    strategy: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    one, two = Seen(tmp_path / "one"), Seen(tmp_path / "two")
    for seen, ranks, name in ((one, "1", "single"), (two, "2", strategy)):
        options = ("--nproc-per-node", ranks, "--strategy", name, "--run-dir", str(seen.path))
        launched = launch(*options, WORKER)
        assert launched.wait(120) == 0, launched.stderr
    assert two.difference(one) <= 1e-6


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_under_zero3_layers_that_swap_are_refused(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    options = ("--nproc-per-node", "2", "--strategy", "zero3", "--run-dir", str(tmp_path / "run"))
    launched = launch(*options, WORKER)
    assert launched.wait(120) == 2, launched.stderr
    assert "use the same layers in the same order" in launched.stderr


@pytest.mark.timeout(300)
def test_under_fsdp_blocks_that_swap_are_refused(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    options = ("--nproc-per-node", "2", "--strategy", "fsdp", "--run-dir", str(tmp_path / "run"))
    launched = launch(*options, "--shard-blocks", "one,other", WORKER)
    assert launched.wait(120) == 2, launched.stderr
    assert "in the model's forward, and rank" in launched.stderr
