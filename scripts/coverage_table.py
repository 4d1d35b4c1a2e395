"""Measure what the tests of the packages reach, and print a table by folder."""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_table import machine, markdown_table

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("launcher", "strategies", "checkpointing")
PAGE = ROOT / "docs" / "coverage.md"
HEADING = "## Measured\n"
TESTS = tuple(f"tests/{name}" for name in PACKAGES)
FEWEST_LINES = 30
"""A file that is shown by itself has at least so many that no test reaches."""


@dataclass(frozen=True)
class Counts:
    """What is there and what was reached, of lines and of branches."""

    lines: int = 0
    lines_reached: int = 0
    branches: int = 0
    branches_reached: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, n) + getattr(other, n) for n in self.__dataclass_fields__))

    def row(self, name: str) -> list[str]:
        """Return a row of the table."""
        lines = [str(self.lines), _share(self.lines_reached, self.lines)]
        return [name, *lines, str(self.branches), _share(self.branches_reached, self.branches)]


def counts_of(summary: Mapping[str, Any]) -> Counts:
    """Return the counts of one file from coverage's JSON."""
    return Counts(
        lines=summary["num_statements"],
        lines_reached=summary["covered_lines"],
        branches=summary["num_branches"],
        branches_reached=summary["covered_branches"],
    )


def folder_of(file: str) -> str:
    """Return the folder under which a file is counted: two levels."""
    return "/".join(Path(file).parts[:-1][:2])


def table(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of all folders; pure.

    Args:
        files: coverage's JSON, by path from the root.
    """
    folders: dict[str, Counts] = defaultdict(Counts)
    for file, found in sorted(files.items()):
        folders[folder_of(file)] += counts_of(found["summary"])
    rows = [counts.row(name) for name, counts in sorted(folders.items())]
    rows.append(sum(folders.values(), Counts()).row("all"))
    return markdown_table(["folder", "lines", "reached", "branches", "reached"], rows)


def least_reached(files: Mapping[str, Mapping[str, Any]], count: int = 12) -> str:
    """Return a table of the files with the most lines that no test reaches; pure."""
    missing = {file: found["summary"]["missing_lines"] for file, found in files.items()}
    worst = sorted(missing, key=lambda file: -missing[file])[:count]
    rows = [[file, str(missing[file])] for file in worst if missing[file] >= FEWEST_LINES]
    return markdown_table(["file", "lines not reached"], rows)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def main(arguments: list[str]) -> int:
    """Run the tests; return pytest's exit code."""
    write = "--write" in arguments
    given = [one for one in arguments if one != "--write"]
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "COVERAGE_FILE": f"{folder}/data"}
        measure = [sys.executable, "-m", "coverage", "run", "--branch"]
        tests = ["-m", "pytest", "-q", "-n", "0", "-m", "not slow", *(given or TESTS)]
        source = f"--source={','.join(PACKAGES)}"
        code = subprocess.run([*measure, source, *tests], cwd=ROOT, env=environ).returncode
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(report)]
        subprocess.run(command, cwd=ROOT, env=environ, check=True)
        files = json.loads(report.read_text())["files"]
    text = "\n\n".join([machine("torch", "coverage"), table(files), least_reached(files)])
    print(text)
    if write and code == 0:
        before, _, _ = PAGE.read_text().partition(HEADING)
        PAGE.write_text(f"{before}{HEADING}\n{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
