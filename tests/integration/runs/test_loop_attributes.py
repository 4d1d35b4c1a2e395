"""What the loop has set once on the model is set again by the start that resumes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Seen

WORKER = str(Path(__file__).parents[1] / "workers" / "attributes_worker.py")


@pytest.mark.timeout(200)
def test_a_rate_and_a_mode_that_were_set_once_survive_a_resume(
    python: Callable[..., Any], tmp_path: Path
) -> None:
    for folder, words, wanted in (("one", (), 0), ("two", ("notice",), 75), ("two", (), 0)):
        (tmp_path / folder).mkdir(exist_ok=True)
        done = python(WORKER, *words, cwd=tmp_path / folder)
        assert done.returncode == wanted, done.stderr
    assert "1.p = 0.6, as the loop had set it" in done.stdout
    one, two = (Seen(tmp_path / name / "runs" / "attributes_worker") for name in ("one", "two"))
    assert two.difference(one) == 0
