"""Modules beside the user's script that would be imported in place of ours.

Python looks beside the script first, and our import names are common words. A script that uses
its own `strategies.py` is left alone; one that means ours and would get another gets a sentence.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NEEDED_BY: Mapping[str, tuple[str, ...]] = {
    "launcher": ("launcher", "strategies", "checkpointing"),
    "strategies": ("strategies", "checkpointing"),
    "checkpointing": ("checkpointing",),
}
"""Our packages, and which of them importing each one imports."""


@dataclass(frozen=True, kw_only=True)
class ScriptUse:
    """What a script's source says about our packages."""

    names: Mapping[str, frozenset[str]]
    """Package to the names taken from it, for each of ours that is imported."""


def use_of_packages(source: str) -> ScriptUse:
    """Read which of our packages the source imports, and what it takes from them.

    A source that does not parse uses nothing: Python itself will show the mistake better.
    """
    tree = parsed(source)
    found: dict[str, set[str]] = {}
    for module, name in absolute_imports(tree):
        package, _, submodule = module.partition(".")
        if package in NEEDED_BY:
            found.setdefault(package, set()).update({submodule.partition(".")[0] or name} - {""})
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.get(node.value.id, set()).add(node.attr)
    return ScriptUse(names={package: frozenset(names) for package, names in found.items()})


@dataclass(frozen=True, kw_only=True)
class PackageOrigin:
    """Where a script would get our packages from."""

    ours: frozenset[str]
    """Those which it means and gets from us."""
    shadow: Path | None = None
    """A file beside the script that would be imported in place of one of ours."""


def origin_of_packages(use: ScriptUse, folder: Path, own_root: Path) -> PackageOrigin:
    """Find out which of our packages a script in a folder would get, and what is in the way.

    Args:
        use: What the script takes from which package.
        folder: The script's folder, first on its sys.path.
        own_root: The folder that holds our packages; a script beside them shadows nothing.
    """
    if folder.resolve() == own_root.resolve():
        return PackageOrigin(ours=frozenset(use.names))
    ours: set[str] = set()
    for package, names in use.names.items():
        beside = _module_beside(package, folder)
        if beside is None:
            ours.add(package)
        elif not _provides(beside, names):
            return PackageOrigin(ours=frozenset(), shadow=beside)
    needed = {name for package in ours for name in NEEDED_BY[package]}
    shadow = next((b for n in sorted(needed) if (b := _module_beside(n, folder))), None)
    return PackageOrigin(ours=frozenset(ours), shadow=shadow)


def parsed(source: str) -> ast.Module:
    """Return a source's tree; that of an empty one where it does not parse."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def absolute_imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (module, name taken from it) for each absolute import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def _module_beside(name: str, folder: Path) -> Path | None:
    # A folder without __init__.py is only a namespace portion: ours is still found after it.
    candidates = (folder / name / "__init__.py", folder / f"{name}.py")
    return next((path for path in candidates if path.is_file()), None)


def _provides(module: Path, names: frozenset[str]) -> bool:
    """Return whether a module's source binds all names, so that the script means this module."""
    try:
        tree = ast.parse(module.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return True
    bound: set[str] = {"*"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.partition(".")[0])
    if module.name == "__init__.py":
        bound.update(path.stem for path in module.parent.iterdir())
    star_import = any(
        isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in ast.walk(tree)
    )
    return star_import or names <= bound
