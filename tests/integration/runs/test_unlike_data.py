"""Data that is another one on each rank is refused; another one at each start is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = str(Path(__file__).parents[1] / "workers" / "unlike_data_worker.py")


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("words", "what"),
    [
        pytest.param(("made",), "its first samples are others", id="made"),
        pytest.param(("chosen", "worker"), "its subset takes other indices", id="chosen"),
    ],
)
def test_ranks_with_other_data_are_refused(
    words: tuple[str, ...], what: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    launched = launch("--nproc-per-node", "2", "--run-dir", str(tmp_path / "run"), WORKER, *words)
    assert launched.wait(90) == 2, launched.stderr
    assert f"the training data of rank 1 is not that of rank 0: {what}" in launched.stderr


@pytest.mark.timeout(200)
def test_a_start_with_other_data_is_told(python: Callable[..., Any], tmp_path: Path) -> None:
    first = python(WORKER, "made", "notice", cwd=tmp_path)
    assert first.returncode == 75, first.stderr
    again = python(WORKER, "made", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    wanted = "the training data is not what the run had so far: samples differ"
    assert wanted in again.stderr + again.stdout
    assert wanted not in first.stderr + first.stdout
