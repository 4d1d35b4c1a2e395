"""What a script's own loop has changed once is so again after a resume, or is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Seen

WORKER = str(Path(__file__).parents[1] / "workers" / "own_loop_changes.py")


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", ["rate", "mode", "unfreeze"])
def test_it_survives_a_resume(kind: str, python: Callable[..., Any], tmp_path: Path) -> None:
    for folder, words, wanted in (("one", (), 0), ("two", ("notice",), 75), ("two", (), 0)):
        (tmp_path / folder).mkdir(exist_ok=True)
        done = python(WORKER, kind, *words, cwd=tmp_path / folder)
        assert done.returncode == wanted, done.stderr
    assert "as the loop had set it" in done.stdout
    one, two = (Seen(tmp_path / name / "runs" / "own_loop_changes") for name in ("one", "two"))
    assert two.difference(one, "fp32/") == 0


@pytest.mark.timeout(100)
def test_another_group_in_the_loop_is_refused_at_once(
    python: Callable[..., Any], tmp_path: Path
) -> None:
    done = python(WORKER, "group", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "AdamW was given other parameters in the loop" in done.stderr
    assert "Traceback" not in done.stderr
