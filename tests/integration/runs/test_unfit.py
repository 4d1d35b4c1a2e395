"""What cannot be trained on is refused by name, where the ranks would wait for each other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = str(Path(__file__).parents[1] / "workers" / "unfit_worker.py")


@pytest.mark.timeout(240)
def test_losses_and_optimizers_that_do_not_fit(launch: Callable[..., Any], tmp_path: Path) -> None:
    launched = launch("--nproc-per-node", "2", WORKER, str(tmp_path), "all")
    assert launched.wait(200) == 0, launched.stderr
    for rank in range(2):
        told = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        for strategy in ("ddp", "fsdp", "zero1", "zero2", "zero3", "accelerate"):
            assert told[f"fit {strategy}"] is None
            sentence = told[f"untouched {strategy}"]
            assert "step 0, micro-batch" in sentence, strategy
            assert "blocks.1.weight, blocks.1.bias, " in sentence
            assert "embed" not in sentence
        # The ranks deal out micro-batches 0, 1, 2, ...: each names its own.
        assert f"micro-batch {rank} (positions {4 * rank} to " in told["infinite ddp"]
        assert "the loss is inf" in told["infinite ddp"]
        assert "holds gain, embed.weight, " in told["early fsdp"]
        assert "before the model was sharded" in told["early fsdp"]


@pytest.mark.parametrize(
    ("strategy", "turn", "micro_batch"),
    [("ddp", 0, 1), ("ddp", 1, 3), ("ddp", 2, 0), ("fsdp", 0, 1)],  # the last of ddp is padding
)
def test_a_parameter_without_gradient_on_one_rank_is_no_hang(
    strategy: str, turn: int, micro_batch: int, launch: Callable[..., Any], tmp_path: Path
) -> None:
    """Under ddp rank 0 waits in the last backward, rank 1 comes out of it and tells."""
    launched = launch("--nproc-per-node", "2", WORKER, str(tmp_path), "alone", strategy, str(turn))
    assert launched.wait(100) == 1
    where = f"step 3, micro-batch {micro_batch}"
    assert f"{where}: the loss does not depend on blocks.1.weight" in launched.stderr
