"""The three packages import one way, and nothing reads or writes pickles."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("checkpointing", "strategies", "launcher")
"""Each may import those to its left."""
FILES = [path for package in ORDER for path in sorted((ROOT / package).rglob("*.py"))]


def absolute_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name in absolute_imports(path):
        top = name.partition(".")[0]
        if top in ORDER:
            assert ORDER.index(top) < ORDER.index(package), f"{path} imports {name}"
        assert top not in ("pickle", "cloudpickle", "dill"), f"{path} imports {name}"


def test_there_are_files_to_read() -> None:
    assert len(FILES) > 60


@pytest.mark.parametrize("package", ["strategies", "checkpointing", "launcher"])
def test_every_public_name_can_be_imported(package: str) -> None:
    from importlib import import_module

    module = import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense
