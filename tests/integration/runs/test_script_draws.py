"""What the script's main draws is the same on every rank and at every start."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = str(Path(__file__).parents[1] / "workers" / "split_worker.py")


@pytest.mark.timeout(200)
def test_an_unseeded_split_is_one_split(launch: Callable[..., Any], tmp_path: Path) -> None:
    for ranks, folder in (("1", "one"), ("1", "one"), ("2", "two")):
        options = ("--nproc-per-node", ranks, "--run-dir", str(tmp_path / folder))
        launched = launch(*options, WORKER, str(tmp_path))
        assert launched.wait(90) == 0, launched.stderr
    names = ("drawn-1-0", "drawn-2-0", "drawn-2-1")
    first, again, *others = [
        line for name in names for line in (tmp_path / name).read_text().splitlines()
    ]
    assert [again, *others] == [first] * 3
