"""The table of `scripts/coverage`."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(name="coverage_table")
def _coverage_table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("coverage_table", SCRIPTS / "coverage_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def found(lines: int, reached: int, branches: int, taken: int) -> dict[str, dict[str, int]]:
    return {
        "summary": {
            "num_statements": lines,
            "covered_lines": reached,
            "missing_lines": lines - reached,
            "num_branches": branches,
            "covered_branches": taken,
        }
    }


def test_folders_are_summed_and_the_least_reached_files_are_named(
    coverage_table: ModuleType,
) -> None:
    files = {
        "launcher/cli.py": found(10, 5, 0, 0),
        "launcher/agent/launch.py": found(90, 90, 10, 5),
        "launcher/agent/attempts/ends.py": found(110, 60, 10, 10),
    }
    assert coverage_table.table(files).splitlines() == [
        "| folder | lines | reached | branches | reached |",
        "| --- | --: | --: | --: | --: |",
        "| launcher | 10 | 50.0 % | 0 |  |",
        "| launcher/agent | 200 | 75.0 % | 20 | 75.0 % |",
        "| all | 210 | 73.8 % | 20 | 75.0 % |",
    ]
    assert coverage_table.least_reached(files).splitlines()[2:] == [
        "| launcher/agent/attempts/ends.py | 50 |"
    ]
