"""13 samples in batches of 4 on 2 and 3 ranks: the metrics are scikit-learn's on all of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKERS = Path(__file__).parents[1] / "workers"


@pytest.mark.parametrize("world_size", [2, 3])
def test_exact_on_any_number_of_ranks(
    world_size: int, launch: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(WORKERS))
    measuring = __import__("measuring")
    worker = str(WORKERS / "metrics_worker.py")
    launched = launch(
        *("--nproc-per-node", str(world_size), "--preload", "torchmetrics"), worker, str(tmp_path)
    )
    assert launched.wait(90) == 0, launched.stderr
    expected = {f"val/{name}": value for name, value in measuring.expected().items()}
    for rank in range(world_size):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        rows = found["metrics"].pop("val/matrix")  # one value: a table
        found["metrics"] |= {
            f"val/matrix/{i}/{j}": count
            for i, row in enumerate(rows)
            for j, count in enumerate(row)
        }
        assert found["metrics"] == pytest.approx(expected, rel=1e-6, nan_ok=True)
        for name in ("accuracy", "f1 macro", "mse", "mae", "perplexity", "bits", "matrix/0/1"):
            assert found["metrics"][f"val/{name}"] == pytest.approx(
                expected[f"val/{name}"], rel=1e-14
            )
        assert f"rank {rank} measured ['f1']" in found["refusal"]
