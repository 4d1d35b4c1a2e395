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


CHANGED = [("trainer", 3), ("lightning", 4), ("accelerate", 4)]
PAGE = EXAMPLES.parents[2] / "docs" / "coming_from.md"
TITLES = {"trainer": "Hugging Face's Trainer", "lightning": "Lightning", "accelerate": "Accelerate"}


@pytest.mark.parametrize(("framework", "changed"), CHANGED)
def test_lines_that_differ(framework: str, changed: int) -> None:
    before, after = code_of(f"{framework}_before.py"), code_of(f"{framework}_after.py")
    marks = [line[0] for line in difflib.ndiff(before, after)]
    assert marks.count("+") == changed <= MOST
    assert marks.count("-") <= changed


@pytest.mark.parametrize(("framework", "changed"), CHANGED)
def test_the_page_shows_these_lines(framework: str, changed: int) -> None:
    text = PAGE.read_text(encoding="utf-8")
    part = text.partition(f"**{TITLES[framework]}**")[2].partition("\n**")[0]
    marked = [line for line in part.splitlines() if "# new" in line or "# was: " in line]
    shown = [line.partition("#")[0].strip() for line in marked]
    before, after = code_of(f"{framework}_before.py"), code_of(f"{framework}_after.py")
    added = [line[2:].strip() for line in difflib.ndiff(before, after) if line[0] == "+"]
    assert sorted(shown) == sorted(added)
    assert len(shown) == changed
