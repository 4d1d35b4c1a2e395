"""What the project says about versions agrees, and the matrix reads it."""

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from strategies.parallel.zero.required import OLDEST

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("test_matrix", ROOT / "scripts/test_matrix.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


matrix = _load()


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_every_extra_with_deepspeed_has_the_floor_that_is_checked_at_the_start() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for name in ("zero", "examples", "test"):
        assert matrix.floors(extras[name])["deepspeed"] == OLDEST, name
    assert "deepspeed" not in matrix.floors(PROJECT["project"]["dependencies"])


def test_the_tested_versions_are_permitted() -> None:
    section = PROJECT["project"]
    tested = matrix.pinned(CONSTRAINTS)
    listed = [section["dependencies"], *section["optional-dependencies"].values()]
    for requirements in listed:
        for name, floor in matrix.floors(requirements).items():
            assert numbers(tested[name]) >= numbers(floor), name


def test_the_lowest_torch_permits_the_setuptools_that_is_pinned() -> None:
    # torch 2.11 asks for one below 82.
    assert numbers(matrix.pinned(CONSTRAINTS)["setuptools"]) < [82]


def test_the_sets() -> None:
    sets = {one.name: one for one in matrix.version_sets(PROJECT, CONSTRAINTS)}
    assert list(sets) == ["lowest", "newest", "tested, 3.11", "tested, 3.12", "tested, 3.13"]
    lowest = matrix.floors(PROJECT["project"]["dependencies"]) | {"deepspeed": OLDEST}
    assert lowest.items() <= sets["lowest"].pins.items()
    assert sets["newest"].pins == {}
    assert sets["tested, 3.12"].pins["torch"] == matrix.pinned(CONSTRAINTS)["torch"]


@pytest.mark.parametrize(
    ("output", "code", "told"),
    [
        ("....\n24 passed, 1 skipped in 3.2s\n", 0, "passed (24 passed, 1 skipped)"),
        ("=== 1 failed, 3 passed in 1:02 ===\n", 1, "FAILED (1 failed, 3 passed)"),
        ("ImportError\n", 4, "FAILED (no test ran)"),
        ("...", None, "not finished in time"),
    ],
)
def test_what_came_of_a_set(output: str, code: int | None, told: str) -> None:
    assert matrix.outcome(output, code) == told


def row(name: str, outcome: str) -> Any:
    return matrix.Row(name=name, python="3.11", versions={"torch": "2.11.0"}, outcome=outcome)


def test_rows_of_other_sets_stay() -> None:
    page = f"a\n{matrix.BEGIN}\n{matrix.table([row('x', 'old'), row('y', 'old')])}\n{matrix.END}b"
    written = matrix.with_rows(page, [row("y", "new"), row("z", "new")])
    named = [(line.split(" | ")[0], line.split(" | ")[-1]) for line in written.splitlines()]
    assert ("| x", "old |") in named
    assert ("| y", "new |") in named
    assert ("| z", "new |") in named
    assert written.endswith("b")


def test_the_page_has_a_place_for_the_table_and_the_floors() -> None:
    page = matrix.PAGE.read_text()
    assert matrix.with_rows(page, []) == page
    floors = matrix.floors(PROJECT["project"]["dependencies"])
    for name in ("torch", "safetensors"):
        assert f"| {name} | {floors[name]} and newer" in page
    assert f"| {OLDEST} and newer |" in page
