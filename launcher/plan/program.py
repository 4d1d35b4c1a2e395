"""What each rank runs: a script, a module, or a program that is not Python."""

import enum
import os
import shutil
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

from ..errors import UsageError
from .given_options import nearest
from .python_command import PYTHON_FLAGS


class ProgramKind(enum.Enum):
    """How the program's name is to be understood."""

    SCRIPT = "script"
    MODULE = "module"
    """Run as `python -m` does."""
    COMMAND = "command"
    """Started by itself, without Python."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What each rank runs."""

    kind: ProgramKind
    name: str
    """As it was given, so that sys.argv[0] is what `python script.py` makes it."""
    args: tuple[str, ...]

    def command(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Return the words that start it; PYTHON_EXEC names another Python, as in torchrun."""
        if self.kind is ProgramKind.COMMAND:
            return (self.name, *self.args)
        how = ("-m",) if self.kind is ProgramKind.MODULE else ()
        python = environ.get("PYTHON_EXEC") or sys.executable
        return (python, *PYTHON_FLAGS, *how, self.name, *self.args)


def for_local_rank(command: Sequence[str], local_rank: int) -> tuple[str, ...]:
    """Return the words with ${local_rank} filled in, and $$ as $, as torchrun's macros do; pure.

    Args:
        command: As `Program.command` returns it; its first word is left alone.
        local_rank: Of the rank that is started.
    """
    first, *words = command
    return (first, *(string.Template(w).safe_substitute(local_rank=local_rank) for w in words))


def find_source(program: Program, search: Sequence[str] | None = None) -> Path | None:
    """Return the program's Python source; None where it has none that can be known.

    Args:
        program: What is to be run.
        search: Where modules are looked for; default: as `python -m` would.

    Raises:
        UsageError: There is no such program.
    """
    if program.kind is ProgramKind.SCRIPT:
        return check_script(Path(program.name))
    if program.kind is ProgramKind.COMMAND:
        if shutil.which(program.name) is None:
            raise UsageError(_not_startable(program.name))
        return None
    return _module_source(program.name, [os.getcwd(), *sys.path] if search is None else search)


def check_script(script: Path) -> Path:
    """Return the script if it is a file.

    Raises:
        UsageError: It does not exist (a close name in its folder is shown)
            or is a folder.
    """
    if script.is_file():
        return script
    if (script / "__main__.py").is_file():
        return script / "__main__.py"
    if script.is_dir():
        raise UsageError(f"{script} is a folder, not a script.")
    try:
        names = {path.name for path in script.parent.iterdir()}
    except OSError:
        raise UsageError(f"{script} does not exist: there is no folder {script.parent}.") from None
    raise UsageError(f"{script} does not exist{nearest(script.name, names)}")


def _not_startable(name: str) -> str:
    path = Path(name)
    if path.is_file() and os.sep in name:
        return f"{name} is not executable. Run chmod +x {name}, or leave out --no-python."
    if path.is_file():
        return f"{name} is not on the PATH. Write ./{name}."
    return f"there is no program {name}. Give its path, or a name on the PATH."


def _module_source(name: str, search: Sequence[str]) -> Path | None:
    if name.endswith(".py") or os.sep in name:
        raise UsageError(
            f"-m {name} is a path, and -m takes a module's dotted name. Leave out -m, or write "
            f"-m {name.removesuffix('.py').replace(os.sep, '.')}."
        )
    spec: ModuleSpec | None = None
    path: Sequence[str] = search
    parts = name.split(".")
    for depth in range(len(parts)):
        spec = _find(".".join(parts[: depth + 1]), path)
        if spec is None:
            raise UsageError(_no_module(name, ".".join(parts[: depth + 1]), path))
        path = list(spec.submodule_search_locations or ())
    assert spec is not None
    if spec.submodule_search_locations is not None:
        main = _find(f"{name}.__main__", path)
        if main is None:
            raise UsageError(f"-m {name} is a package without a __main__ module to run.")
        spec = main
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _find(name: str, path: Sequence[str]) -> ModuleSpec | None:
    """Find a module without importing what it is in, which would run the user's code here."""
    top_level = "." not in name
    for finder in sys.meta_path:
        # Finders of what is built in or installed editable answer a top level name for None only.
        for where in (path, None) if top_level else (path,):
            try:
                spec = finder.find_spec(name, where)
            except (ImportError, ValueError, KeyError):
                continue
            if spec is not None:
                return spec
    return None


def _no_module(name: str, missing: str, path: Sequence[str]) -> str:
    names = {
        entry.stem
        for folder in path[:1]
        if Path(folder or ".").is_dir()
        for entry in Path(folder or ".").iterdir()
        if entry.suffix == ".py" or (entry / "__init__.py").is_file()
    }
    near = nearest(missing.rpartition(".")[2], names)
    within = "" if missing == name else f" ({missing} is missing)"
    return f"-m {name}: there is no such module{within}{near}"
