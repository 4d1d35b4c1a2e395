"""What a script's source says about how it trains; nothing of it is run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from ..errors import UsageError
from .program import Program, find_source

_MODULE = "torch.multiprocessing"
_STARTERS = ("spawn", "start_processes")
_VARIABLE_OF_TORCH = re.compile(r"\bTORCH[A-Z]*_[A-Z]")
"""TORCHINDUCTOR_CACHE_DIR, TORCH_LOGS and the like."""


def modules_of(program: Program) -> frozenset[str]:
    """Return the modules that a program's source imports, without what follows a dot."""
    return modules_in(source_of(program))


def source_of(program: Program) -> str:
    """Return a program's source; empty where it has none that can be read."""
    try:
        path = find_source(program)
        return "" if path is None else path.read_text(encoding="utf-8", errors="replace")
    except (OSError, UsageError):
        return ""


def modules_in(source: str) -> frozenset[str]:
    """Return the modules that a source imports, without what follows a dot; pure."""
    found: set[str] = set()
    for node in _nodes(source):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return frozenset(found)


def names_torch_variable(program: Program) -> bool:
    """Return whether the program, or a module beside it that it imports, names such a variable.

    It may set one before the part of torch that reads it is imported.
    """
    return any(map(_VARIABLE_OF_TORCH.search, sources_of(program)))


def sources_of(program: Program) -> tuple[str, ...]:
    """Return a program's source, and those of the modules beside it that it imports."""
    source = source_of(program)
    path = find_source(program)
    beside = () if path is None else (path.parent / f"{m}.py" for m in modules_in(source))
    return (source, *map(_text_of, beside))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def spawn_line(source: str) -> int | None:
    """Return the line that calls torch.multiprocessing's `spawn` or `start_processes`; pure."""
    if "multiprocessing" not in source:  # nearly every script: spares parsing it at each start
        return None
    modules: set[str] = {_MODULE}
    names: set[str] = set()
    for node in _nodes(source):
        if isinstance(node, ast.Import):
            modules.update(a.asname for a in node.names if a.name == _MODULE and a.asname)
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            found = (a.asname or a.name for a in node.names if a.name == "multiprocessing")
            modules.update(found)
        elif isinstance(node, ast.ImportFrom) and node.module == _MODULE:
            names.update(a.asname or a.name for a in node.names if a.name in _STARTERS)
    names.update(f"{module}.{starter}" for module in modules for starter in _STARTERS)
    calls = (node for node in _nodes(source) if isinstance(node, ast.Call))
    return min((call.lineno for call in calls if ast.unparse(call.func) in names), default=None)


def _nodes(source: str) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return []
