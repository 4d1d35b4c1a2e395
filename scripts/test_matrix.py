"""The lowest versions that pyproject.toml permits, the tested ones and the newest, each tried.

Each set has a virtual environment of its own, which is kept and brought up to date at the next
start. An interpreter that is not installed is left out, and said so. What ends in time and green
is "passed"; `--write` puts the rows into the table of docs/versions.md, in the place of those of
the same name.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- begin: scripts/test_matrix -->", "<!-- end: scripts/test_matrix -->"
NEEDED = ("torch", "accelerate", "deepspeed", "safetensors", "numpy", "isal")
"""Whose versions the table shows."""
OF_THE_TESTS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
SELECTION = (
    "tests/strategies/test_torch_internals.py",
    "tests/strategies/parallel/zero",
    "tests/launcher/command_line",
    "tests/launcher/contract/test_environment.py",
    "tests/integration/launch/test_launch_contract.py",
    "tests/integration/runs/test_known_step.py",
    "tests/integration/runs/test_parity.py",
    "tests/integration/runs/test_disturbed_runs.py",
)
"""What depends on torch, DeepSpeed and Python the most: about five minutes on two quiet cores."""


@dataclass(frozen=True, kw_only=True)
class VersionSet:
    """What is installed together."""

    name: str
    python: str
    """As 3.12."""
    pins: Mapping[str, str]
    """Package to its version; whoever is missing gets the newest."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one set."""

    name: str
    python: str
    versions: Mapping[str, str]
    outcome: str

    def cells(self) -> list[str]:
        """Return the row of the table."""
        return [self.name, self.python, *(self.versions.get(n, "-") for n in NEEDED), self.outcome]


def floors(requirements: Iterable[str]) -> dict[str, str]:
    """Return the lowest version that each requirement permits; pure."""
    found = {}
    for requirement in requirements:
        match = re.match(
            r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*>=\s*([0-9][0-9A-Za-z.]*)", requirement
        )
        if match is not None:
            found[match[1].lower()] = match[2]
    return found


def pinned(constraints: str) -> dict[str, str]:
    """Return the versions of a constraint file; pure."""
    pairs = (line.split("==") for line in constraints.splitlines() if "==" in line)
    return {name.strip().lower(): version.strip() for name, version in pairs}


def version_sets(project: Mapping[str, object], constraints: str) -> list[VersionSet]:
    """Return the sets, the cheapest to find a fault with first; pure."""
    section = project["project"]
    assert isinstance(section, dict)
    extras = section["optional-dependencies"]
    lowest = floors([*section["dependencies"], *extras["zero"], *extras["test"]])
    used = (*NEEDED, *OF_THE_TESTS)
    tested = {name: version for name, version in pinned(constraints).items() if name in used}
    return [
        VersionSet(name="lowest", python="3.11", pins={n: lowest[n] for n in used if n in lowest}),
        VersionSet(name="newest", python="3.13", pins={}),
        *(
            VersionSet(name=f"tested, {python}", python=python, pins=tested)
            for python in ("3.11", "3.12", "3.13")
        ),
    ]


def table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown; pure."""
    head = ["set", "Python", *NEEDED, "core selection"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_rows(page: str, rows: Sequence[Row]) -> str:
    """Return the page with these rows in its table; those of other sets stay. Pure."""
    before, rest = page.split(BEGIN)
    old, after = rest.split(END)
    new = {row.name: row for row in rows}
    kept = [_row(line) for line in old.strip().splitlines()[2:]]
    merged = [new.pop(row.name, row) for row in kept] + list(new.values())
    return f"{before}{BEGIN}\n{table(merged)}\n{END}{after}"


def _row(line: str) -> Row:
    name, python, *versions, outcome = (cell.strip() for cell in line.strip("| ").split("|"))
    return Row(
        name=name, python=python, outcome=outcome, versions=dict(zip(NEEDED, versions, strict=True))
    )


def outcome(output: str, code: int | None) -> str:
    """Return what came of the tests, from pytest's last lines; pure. None: they took too long."""
    if code is None:
        return "not finished in time"
    found = re.findall(r"^=*\s*((?:\d+ [a-z]+(?:, )?)+) in ", output, re.MULTILINE)
    counts = found[-1] if found else "pytest told no numbers"
    return f"passed ({counts})" if code == 0 else f"FAILED ({counts})"


def interpreter(version: str) -> str | None:
    """Return a Python of this version; None: there is none on PATH and none of pyenv's."""
    own = ".".join(map(str, sys.version_info[:2]))
    if version == own:
        return sys.executable
    folders = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*folders.glob(f"{version}.*/bin/python"), *folders.glob(f"{version}/bin/python")]
    return str(max(found)) if found else shutil.which(f"python{version}")


def install(python: str, venv: Path, versions: VersionSet) -> None:
    """Bring the set's environment up to date; torch first, as scripts/install does."""
    if not (venv / "bin" / "python").exists():
        subprocess.run([python, "-m", "venv", "--without-pip", venv], check=True)
    pip = [python, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--quiet"]
    pip += [] if versions.pins else ["--upgrade"]
    wanted = [
        f"{name}=={versions.pins[name]}" if name in versions.pins else name
        for name in (*NEEDED, *OF_THE_TESTS)
    ]
    subprocess.run([*pip, wanted[0]], check=True)
    subprocess.run([*pip, *wanted], check=True)


def installed(venv: Path) -> dict[str, str]:
    """Return the versions that are there."""
    ask = "import json, sys; from importlib.metadata import version as v; " + (
        "print(json.dumps({n: v(n) for n in sys.argv[1:]}))"
    )
    python = venv / "bin" / "python"
    answer = subprocess.run([python, "-c", ask, *NEEDED], check=True, capture_output=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def run(venv: Path, limit_s: float, selection: Sequence[str]) -> tuple[str, int | None]:
    """Run the selection; return what pytest printed and its exit code, None: it took too long."""
    python = venv / "bin" / "python"
    # A test that takes too long is one failure: by a thread its end would be that of all.
    how = ["-n", "0", "-q", "-m", "not slow", "-o", "timeout_method=signal"]
    command = [python, "-m", "pytest", *how, *selection]
    # The packages are not installed into the environment: a row is about the others.
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            output, _ = process.communicate()
            return output, None
    return output, process.returncode


def attempt(
    one: VersionSet, python: str, venvs: Path, limit_s: float, selection: Sequence[str]
) -> Row:
    """Install a set and run the tests with it; what goes wrong is printed."""
    venv = venvs / one.name.replace(", ", "-")
    try:
        install(python, venv, one)
    except subprocess.CalledProcessError:  # pip has printed why
        return Row(name=one.name, python=one.python, versions={}, outcome="cannot be installed")
    output, code = run(venv, limit_s, selection or SELECTION)
    if code != 0:
        print(output)
    return Row(
        name=one.name, python=one.python, versions=installed(venv), outcome=outcome(output, code)
    )


def main() -> int:
    """Try the sets; return 1 when one has failed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    sets = version_sets(project, (ROOT / "constraints.txt").read_text())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[one.name for one in sets], metavar="SET")
    parser.add_argument("--write", action="store_true", help="put the rows into docs/versions.md")
    parser.add_argument("--venvs", type=Path, default=ROOT / ".matrix", metavar="DIR")
    parser.add_argument("--limit-s", type=float, default=1200, help="for the tests of one set")
    parser.add_argument("selection", nargs="*", help="tests in place of the core selection")
    given = parser.parse_args()
    rows = []
    for one in sets:
        if given.only and one.name not in given.only:
            continue
        if (python := interpreter(one.python)) is None:
            print(f"{one.name}: no Python {one.python} here, left out.", flush=True)
            continue
        row = attempt(one, python, given.venvs.resolve(), given.limit_s, given.selection)
        rows.append(row)
        print(table([row]), flush=True)
    if given.write and not given.selection:
        PAGE.write_text(with_rows(PAGE.read_text(), rows))
    print(table(rows))
    return int(any(not row.outcome.startswith("passed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
