"""What can be seen in a program's source about its training; nothing of it is run.

The source is read once: the program's file, and the user's own modules beside it that it imports,
directly or through one another. `Run` may well be called in one of those.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ..errors import UsageError
from .program import Program, ProgramKind, find_source
from .shadowing import (
    NEEDED_BY,
    absolute_imports,
    origin_of_packages,
    parsed,
    use_of_packages,
)

MAX_FILES = 200
"""Files of the user's that are read at most: a start must not wait for a whole repository."""

_MODULE = "torch.multiprocessing"
_STARTERS = ("spawn", "start_processes")
_VARIABLE_OF_TORCH = re.compile(r"\bTORCH[A-Z]*_[A-Z]")
"""TORCHINDUCTOR_CACHE_DIR, TORCH_LOGS and the like."""
_IMPORT = re.compile(
    r"(?:^|[;:])[ \t]*"
    r"(?:from[ \t]+(?P<dots>\.*)(?P<module>[\w.]*)[ \t]+import[ \t]*(?P<names>\([^)]*\)|[^;#\n]+)"
    r"|import[ \t]+(?P<modules>[^;#\n]+))",
    re.MULTILINE,
)
"""Far quicker than to parse; what it takes from a text that is no code names no file beside."""
_PACKAGE = re.compile(r"\b(?:" + "|".join(NEEDED_BY) + r")\b")
_OWN_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of the user's."""

    path: Path
    text: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ProgramSource:
    """What there is to read of a program."""

    folder: Path = Path()
    """Where it looks for modules first."""
    files: tuple[SourceFile, ...] = ()
    """The program's own first; (): it has none that can be read."""

    @property
    def text(self) -> str:
        """Return the source of the program's own file; empty where it has none."""
        return self.files[0].text if self.files else ""

    def uses_run(self) -> bool:
        """Return whether the program uses `launcher`.

        Raises:
            UsageError: It would get another package in place of one of ours.
        """
        found = [self._uses_run(file) for file in self.files]  # each is checked
        return any(found)

    def _uses_run(self, file: SourceFile) -> bool:
        if not _PACKAGE.search(file.text):  # nearly every file: spares parsing it
            return False
        origin = origin_of_packages(use_of_packages(file.text), self.folder, own_root=_OWN_ROOT)
        if (shadow := origin.shadow) is not None:
            name = shadow.parent.name if shadow.name == "__init__.py" else shadow.stem
            raise UsageError(
                f"{file.path.name} would import {shadow} instead of relaunch's own package "
                f'"{name}". Rename or move it.'
            )
        return "launcher" in origin.ours

    def calls_run_start(self) -> bool:
        """Return whether it calls `Run.start`."""
        return any("Run.start(" in file.text for file in self.files)

    def decides_strategy(self) -> bool:
        """Return whether it uses `launcher` in a loop that is not ours, under no strategy of ours.

        Such a start refuses --strategy.

        Raises:
            UsageError: It would get another package in place of one of ours.
        """
        return self.uses_run() and not self.calls_run_start()

    def names_torch_variable(self) -> bool:
        """Return whether it names a variable of torch's.

        It may set one before the part of torch that reads it is imported.
        """
        return any(_VARIABLE_OF_TORCH.search(file.text) for file in self.files)

    def modules(self) -> frozenset[str]:
        """Return the modules that are imported, without what follows a dot."""
        return frozenset().union(*(modules_in(file.text) for file in self.files))


def read_source(program: Program) -> ProgramSource:
    """Read a program's source and that of the modules beside it that it imports.

    Raises:
        UsageError: There is no such program, or its file cannot be read.
    """
    path = find_source(program)
    if path is None:
        return ProgramSource()
    try:
        first = SourceFile(path=path, text=path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    folder, root = path.parent, path.parent
    if program.kind is ProgramKind.MODULE:
        parts = program.name.split(".")
        is_package = path.stem == "__main__" != parts[-1]
        folder, root = Path.cwd(), path.parents[len(parts) - (not is_package)]
    return ProgramSource(folder=folder, files=tuple(_with_own_modules(first, root)))


def _with_own_modules(first: SourceFile, root: Path) -> Iterator[SourceFile]:
    is_file = cache(Path.is_file)
    waiting, seen = [first], {first.path}
    while waiting:
        yield (file := waiting.pop(0))
        package = file.path.parent.relative_to(root).parts
        for parts in sorted(imported_in(file.text, package)):
            if root == _OWN_ROOT and parts[0] in NEEDED_BY:  # these are ours, not the user's
                continue
            for path in _files_of(root, parts):
                if len(seen) < MAX_FILES and path not in seen and is_file(path):
                    seen.add(path)
                    waiting += _readable(path)


def _readable(path: Path) -> Iterator[SourceFile]:
    try:
        yield SourceFile(path=path, text=path.read_text(encoding="utf-8", errors="replace"))
    except OSError:  # Python shows that best
        return


def _files_of(root: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files that importing a dotted name may run: its packages', and its own."""
    for depth in range(1, len(parts) + 1):
        path = root.joinpath(*parts[:depth])
        yield path / "__init__.py"
        if depth >= len(parts) - 1:  # the last part may as well be a name within a module
            yield path.with_name(f"{path.name}.py")


def imported_in(source: str, package: tuple[str, ...] = ()) -> frozenset[tuple[str, ...]]:
    """Return the parts of the dotted names that a source imports; pure.

    Args:
        source: Of a module; it need not parse.
        package: The names of the packages in which the module is, which relative imports begin at.
    """
    found: set[tuple[str, ...]] = set()
    for match in _IMPORT.finditer(source.replace("\\\n", " ")):
        if match["modules"] is not None:
            found.update(tuple(name.split(".")) for name in _first_words(match["modules"]))
            continue
        up = len(match["dots"]) - 1
        base = package[: len(package) - up] if up >= 0 else ()
        module = (*base, *match["module"].split("."))
        found.update((*module, name) for name in _first_words(match["names"]))
    return frozenset(tuple(filter(None, parts)) for parts in found)


def _first_words(listed: str) -> Iterator[str]:
    """Yield the names of "a as x, b" or "(a, b)"."""
    lines = (line.partition("#")[0] for line in listed.strip("() \t").splitlines())
    for entry in " ".join(lines).split(","):
        if words := entry.split():
            yield words[0]


def modules_in(source: str) -> frozenset[str]:
    """Return the modules that a source imports, without what follows a dot; pure."""
    return frozenset(name.partition(".")[0] for name, _ in absolute_imports(parsed(source)))


def spawn_line(source: str) -> int | None:
    """Return the line that calls torch.multiprocessing's `spawn` or `start_processes`; pure."""
    if "multiprocessing" not in source:  # nearly every script: spares parsing it at each start
        return None
    modules: set[str] = {_MODULE}
    names: set[str] = set()
    nodes = list(ast.walk(parsed(source)))
    for node in nodes:
        if isinstance(node, ast.Import):
            modules.update(a.asname for a in node.names if a.name == _MODULE and a.asname)
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            found = (a.asname or a.name for a in node.names if a.name == "multiprocessing")
            modules.update(found)
        elif isinstance(node, ast.ImportFrom) and node.module == _MODULE:
            names.update(a.asname or a.name for a in node.names if a.name in _STARTERS)
    names.update(f"{module}.{starter}" for module in modules for starter in _STARTERS)
    calls = (node for node in nodes if isinstance(node, ast.Call))
    return min((call.lineno for call in calls if ast.unparse(call.func) in names), default=None)
