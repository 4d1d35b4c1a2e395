"""What people and their scripts rely on, as pages of text: names, arguments, options, variables.

`python tests/contract/test_surface.py` writes the pages anew. Do so where a change is meant,
and say in the CHANGELOG what those who use it have to do.
"""

import argparse
import contextlib
import dataclasses
import difflib
import enum
import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from unittest import mock

import pytest

from launcher.command_line.option_table import OWN_OPTIONS, TORCHRUN_OPTIONS
from launcher.command_line.parser import help_text
from launcher.command_line.subcommands import SUBCOMMANDS
from launcher.contract.run_options import VARIABLES

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).parent / "recorded"
PACKAGES = ("launcher", "strategies", "checkpointing")
MODULES = ("strategies.metrics", "strategies.schedules")
"""Public modules of which users import names."""
GIVEN = frozenset({"launcher.Run", "launcher.Job", "launcher.Step"})
"""Classes whose objects a script is given: nobody calls them."""


def names() -> str:
    """Return every public name, with the arguments of what is called."""
    return _lines(line for name in (*PACKAGES, *MODULES) for line in _names_of(name))


def options() -> str:
    """Return every option of the command line, and the variable that stands for it."""
    return _lines(
        f"{option.short or '':2} {option.name} {option.value or ''}".rstrip()
        + (f"  [{option.variable}]" if option.from_environment else "")
        + (f"  {{{', '.join(option.choices)}}}" if option.choices else "")
        for option in (*TORCHRUN_OPTIONS, *OWN_OPTIONS)
    )


def subcommands() -> str:
    """Return every argument of the subcommands; how argparse lays them out is its own business."""
    return _lines(
        line
        for word, module in SUBCOMMANDS.items()
        for parser in _parsers_of(module)
        for line in _arguments_of(f"relaunch {word}", parser)
    )


def variables() -> str:
    """Return every RELAUNCH_* variable that the packages name."""
    found = {
        name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r"\bRELAUNCH_[A-Z_]+[A-Z]\b", path.read_text(encoding="utf-8"))
    }
    return _lines(sorted(found | VARIABLES))


PAGES: dict[str, Callable[[], str]] = {
    "names.txt": names,
    "options.txt": options,
    "variables.txt": variables,
    "help.txt": lambda: help_text() + "\n",
    "subcommands.txt": subcommands,
}
"""By file name: what is written there."""


def _parsers_of(module_name: str) -> list[argparse.ArgumentParser]:
    """Return the parser with which a subcommand answers --help; `slurm` has none."""
    asked: list[argparse.ArgumentParser] = []
    module = importlib.import_module(module_name, "launcher")
    print_help = mock.patch.object(argparse.ArgumentParser, "print_help", lambda x: asked.append(x))
    with print_help, contextlib.suppress(SystemExit):
        module.run(("--help",))
    return asked


def _arguments_of(command: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from _arguments_of(f"{command} {word}", inner)
            continue
        names = " ".join(action.option_strings) or action.metavar or action.dest
        choices = f" {{{', '.join(map(str, action.choices))}}}" if action.choices else ""
        value = "" if action.nargs == 0 or not action.option_strings else " VALUE"
        yield f"{command}: {names}{value}{choices}"


def _names_of(module_name: str) -> Iterator[str]:
    module = importlib.import_module(module_name)
    listed = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module_name
    ]
    for name in sorted(listed):
        yield from _described(f"{module_name}.{name}", getattr(module, name))


def _described(name: str, value: object) -> Iterator[str]:
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        yield from (f"{name}.{member}" for member in value.__members__)
    elif inspect.isclass(value):
        yield name if name in GIVEN else f"{name}{_arguments(value)}"
        ours = [one for one in value.__mro__ if one.__module__.split(".")[0] in PACKAGES]
        members = {name: found for one in reversed(ours) for name, found in vars(one).items()}
        for member, found in sorted(members.items()):
            if not member.startswith("_"):
                yield from _member(f"{name}.{member}", found)
    elif inspect.isfunction(value):
        yield f"{name}{_arguments(value)}"
    else:
        yield name


def _member(name: str, found: object) -> Iterator[str]:
    if isinstance(found, classmethod | staticmethod):
        found = found.__func__
    if isinstance(found, property | cached_property):
        yield name
    elif inspect.isfunction(found):
        yield f"{name}{_arguments(found)}"


def _arguments(value: Callable[..., object]) -> str:
    """Return the names of the arguments, those with a default as `name=`."""
    if dataclasses.is_dataclass(value):
        fields = [field for field in dataclasses.fields(value) if field.init]
        return f"({', '.join(field.name + _default(field) for field in fields)})"
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return ""
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    told = [
        marks.get(one.kind, "") + one.name + ("" if one.default is one.empty else "=")
        for one in parameters
        if one.name not in ("self", "cls")
    ]
    return f"({', '.join(told)})"


def _default(field: "dataclasses.Field[object]") -> str:
    has_none = field.default is dataclasses.MISSING
    return "" if has_none and field.default_factory is dataclasses.MISSING else "="


def _lines(lines: Iterator[str] | list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("name", PAGES)
def test_page_is_as_recorded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    recorded = (RECORDED / name).read_text(encoding="utf-8").splitlines()
    changes = difflib.unified_diff(
        recorded, PAGES[name]().splitlines(), "recorded", "now", lineterm="", n=0
    )
    assert not list(changes), "if it is meant: python tests/contract/test_surface.py"
    assert len(recorded) > 5


def write() -> None:
    """Write all pages."""
    os.environ["COLUMNS"] = "80"
    for name, page in PAGES.items():
        (RECORDED / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
