"""Say which constraint of pip's configuration rules out a tested version. Run after a failure.

usage: PYTHON scripts/pip_in_the_way.py VENV_PYTHON      PYTHON: one that has pip
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pip._vendor.packaging.requirements import InvalidRequirement, Requirement
from pip._vendor.packaging.specifiers import SpecifierSet
from pip._vendor.packaging.utils import canonicalize_name

SECTIONS = ("global.constraint", "install.constraint", ":env:.constraint")
"""The later ones win."""


def constraint_files(venv_python: str) -> "tuple[str, list[str]]":
    """Return (where pip has its constraints from, the files), as pip itself lists them."""
    pip = [sys.executable, "-m", "pip", "--python", venv_python]
    listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True).stdout
    values = dict(line.partition("=")[::2] for line in listed.splitlines())
    for section in reversed(SECTIONS):
        if section in values:
            where = "PIP_CONSTRAINT" if section.startswith(":env:") else "pip's configuration"
            return where, ast.literal_eval(values[section]).split()
    return "", []


def requirements(file: Path) -> "Iterator[tuple[Path, str, Requirement]]":
    """Yield (file, line, what it asks for) of a file and of those that it names."""
    for line in file.read_text().splitlines():
        line = re.sub(r"(^|\s+)#.*", "", line).strip()
        other = re.fullmatch(r"(?:-c|--constraint|-r|--requirement)[\s=]+(\S+)", line)
        if other:
            yield from requirements(file.parent / other[1])
        try:
            yield file, line, Requirement(line)
        except InvalidRequirement:
            continue


def rules_out(constraint: Requirement, version: str) -> bool:
    """Whether no build of a version meets the constraint; `+cpu` and the like are builds."""
    if constraint.url or (constraint.marker and not constraint.marker.evaluate()):
        return False
    builds_alike = SpecifierSet(re.sub(r"\+[\w.]+", "", str(constraint.specifier)))
    return not builds_alike.contains(version, prereleases=True)


def main() -> None:
    tested = {}
    for _, _, wanted in requirements(Path("constraints.txt")):
        tested[canonicalize_name(wanted.name)] = str(wanted.specifier).removeprefix("==")
    where, files = constraint_files(sys.argv[1])
    for file, line, constraint in (found for name in files for found in requirements(Path(name))):
        version = tested.get(canonicalize_name(constraint.name))
        if version is not None and rules_out(constraint, version):
            print(
                f"scripts/install: the line {line!r} of {file}, a constraint file of {where}, "
                f"rules out the tested {constraint.name} {version}: change it, or go on without "
                "pip's constraints with PIP_CONSTRAINT=/dev/null scripts/install",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
