"""A Python command line, read as far as it is needed to run its program in a fork."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import MAGIC_NUMBER
from pathlib import Path

PYTHON_FLAGS = ("-X", "faulthandler", "-u")
"""How every rank's Python is started: a native crash shows its stack, output is never held back."""


def own_command(python: str, program: str) -> list[str]:
    """Return the words with which this command was started, for another node.

    Args:
        python: The interpreter.
        program: What is in sys.argv[0]: the command's file, unless it was started otherwise.
    """
    from ..contract.own_command import OWN_START  # `--help` is kept to a few modules

    return [python, program] if Path(program).is_file() else [python, "-c", OWN_START]


@dataclass(frozen=True, kw_only=True)
class PythonProgram:
    """What `python -u train.py --lr 1` or `python -u -m package.train --lr 1` runs."""

    name: str
    """The script's path as it was given, or the module's name."""
    is_module: bool
    args: tuple[str, ...]


def parse_python_command(command: Sequence[str], python: str) -> PythonProgram | None:
    """Return the program, or None where the command is not Python with PYTHON_FLAGS."""
    flags = len(PYTHON_FLAGS)
    if command[0] != python or tuple(command[1 : 1 + flags]) != PYTHON_FLAGS:
        return None
    words = command[1 + flags :]
    is_module = len(words) > 1 and words[0] == "-m"
    if is_module:
        words = words[1:]
    if not words or words[0].startswith("-"):
        return None
    return PythonProgram(name=words[0], is_module=is_module, args=tuple(words[1:]))


def why_other_python(command: Sequence[str], python: str) -> str | None:
    """Return why the command's Python cannot be a fork of this one; None: it is, or is no Python.

    Args:
        command: The words that start a rank.
        python: The Python that runs the launcher.
    """
    is_python = tuple(command[1 : 1 + len(PYTHON_FLAGS)]) == PYTHON_FLAGS
    if not is_python or command[0] == python:
        return None
    return f"PYTHON_EXEC names {command[0]}, and relaunch itself runs in {python}"


def why_not_source(program: PythonProgram) -> str | None:
    """Return why Python would not simply compile this script: an archive, or compiled already."""
    if program.is_module:
        return None
    path = Path(program.name)
    if path.is_dir():
        return f"{path} is a folder"
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return None  # Python says that best
    if start == MAGIC_NUMBER or path.suffix == ".pyc":
        return f"{path} is compiled already"
    return f"{path} is an archive" if start == b"PK\x03\x04" else None
