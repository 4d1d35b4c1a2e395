"""A bridge costs four lines of a script or fewer, counted in the examples."""

import difflib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "scripts" / "examples" / "frameworks"
MOST = 4


def code_of(name: str) -> list[str]:
    """The lines of an example after its docstring, which says what it shows."""
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines[1:] if line.strip()]


@pytest.mark.parametrize(("framework", "changed"), [("trainer", 3), ("lightning", 4)])
def test_lines_that_differ(framework: str, changed: int) -> None:
    before, after = code_of(f"{framework}_before.py"), code_of(f"{framework}_after.py")
    marks = [line[0] for line in difflib.ndiff(before, after)]
    assert marks.count("+") == changed <= MOST
    assert marks.count("-") <= changed
