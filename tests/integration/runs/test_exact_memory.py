"""Memory of exact sums: 8 bytes a trainable element over those that share it, and one bucket."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = str(Path(__file__).parents[3] / "scripts" / "exact_memory.py")
SMALL = 1 << 19
"""Bytes: a CPU converts gradients in chunks of half of it."""
SHARED = {"ddp": 16 << 20, "fsdp": 4 << 20, "zero2": 4 << 20, "zero3": 4 << 20}
"""Bytes at most of a rank, with however many others."""

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_exact_sums_take_what_is_promised(launch: Callable[..., Any], tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    launched = launch("--nproc-per-node", "2", SCRIPT, str(found))
    assert launched.wait(590) == 0, launched.stderr
    rows = json.loads(found.read_text())
    assert [row["strategy"] for row in rows] == ["ddp", "fsdp", "zero2", "zero3"]
    for row in rows:
        assert 0 < row["shared"] <= SHARED[row["strategy"]]
        promised = row["sums"] + row["bucket"] + row["shared"] + SMALL
        # What is measured has the sums in it, or nothing was.
        assert row["exact"]["kept"] > row["sums"], row
        for moment in ("kept", "peak"):
            assert row["exact"][moment] - row["plain"][moment] <= promised, (moment, row)
