"""Each row of the tables of what happens when names the tests that hold it; they exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
}


def rows(page: str) -> list[list[str]]:
    """The rows of the page's tables whose last column is "held by"."""
    found, is_held = [], False
    for line in (ROOT / "docs" / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else []
        if not cells:
            is_held = False
        elif cells[-1] == "held by":
            is_held = True
        elif is_held and set(cells[-1]) != {"-"}:
            found.append(cells)
    return found


@pytest.mark.parametrize(
    ("page", "at_least"),
    [
        ("launching.md", 15),
        ("slurm.md", 10),
        ("grid_engine.md", 7),
        ("run_folder.md", 4),
        ("guarantee.md", 34),
        ("../README.md", 7),
    ],
)
def test_every_row_is_held_by_tests_that_exist(page: str, at_least: int) -> None:
    found = rows(page)
    assert len(found) >= at_least
    for *_, held in found:
        names = re.findall(r"`(\w+)`", held)
        assert names, f"{page}: nothing holds {held}"
        assert set(names) <= TESTS, f"{page}: no test is called {set(names) - TESTS}"
