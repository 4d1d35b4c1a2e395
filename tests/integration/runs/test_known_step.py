"""At each start DeepSpeed has to take a step whose result is known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = str(Path(__file__).parents[1] / "workers" / "known_step_worker.py")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_deepspeed_that_loses_the_sum_over_the_ranks_is_refused(
    launch: Callable[..., Any], precision: str
) -> None:
    launched = launch("--nproc-per-node", "2", WORKER, precision)
    assert launched.wait(100) == 0, launched.stderr
    lines = [line.removeprefix("[rank 1] ") for line in launched.stdout.splitlines()]
    for stage in (1, 2, 3):
        assert sum(line.startswith(f"zero{stage} as it is: fine") for line in lines) == 2, lines
    for stage in (1, 2):
        refused = [line for line in lines if line.startswith(f"zero{stage} without sums")]
        assert len(refused) == 2, lines
        for line in refused:
            assert (
                f"a wrong result for a known step in {precision} on 2 ranks: gradient of weight"
                in line
            )
