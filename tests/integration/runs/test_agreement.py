"""What the ranks tell each other, and what they say when they disagree."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).parents[1] / "workers" / "boundary_worker.py"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["beside each other", "apart"])
def test_three_ranks_agree_or_say_so(launch: Callable[..., Any], tmp_path: Path, how: str) -> None:
    launched = launch("--nproc-per-node", "3", str(WORKER), str(tmp_path), how)
    assert launched.wait(90) == 0, launched.stderr
    found = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(3)]
    for rank, one in enumerate(found):
        assert one["neighbours"]
        assert one["first"]
        assert one["read once"]
        assert one["agreed"] == [7, 1, 0, pytest.approx(9 / 6)]
        assert one["alone"] == [6.0, True]
        assert one["along"] == [9.0, 8, 1]
        assert one["drained"] == [9, 3, True]
        # Rank 0's samples were padding: the mean is over the other two.
        assert one["metrics"] == {"loss": pytest.approx((6 + 4 + 6 + 8) / 8)}
        counted = [(700_000 * (r + 1) // 3 - 700_000 * r // 3) * (r + 1) ** 2 for r in range(3)]
        alone = 700_000 * (rank + 1) ** 2
        squares = alone if how == "apart" else sum(counted)
        assert one["squares of replicas"] == squares + 600
        assert one["squares of a few"] == 9 * (rank + 1) ** 2
        assert f"rank {rank} has completed {8 + rank}, the mean over 3 ranks is 9" in one["steps"]
        assert f"rank {rank} was given another configuration" in one["configurations"]
        assert f"loss{rank}" in one["names"]
        assert one["all gathered"] == [0, 1, 2]
        assert one["broadcast"]["text"] == "é"
    assert [g["text"] for g in found[0]["gathered"]] == ["é", "éé", "ééé"]
    assert found[1]["gathered"] is None
