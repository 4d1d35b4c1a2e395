"""What the command line asks of a run: one value, carried whole from the launcher to each rank.

A new option that only a rank reads is a field here, and a row of `command_line/option_table.py`:
its name with dashes is the option, and in capitals, after RELAUNCH_, the variable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What was asked; None and False: nothing, the script decides."""

    strategy: str | None = None
    precision: str | None = None
    shard_blocks: str | None = None
    hybrid_shard: bool = False
    exact: bool = False
    """The same bits on any number of ranks."""
    run_dir: Path | None = None
    checkpoints: str | None = None
    """Where checkpoints go: a folder or a URL; None: the run's folder."""

    def to_environ(self) -> dict[str, str]:
        """Return the variables of what was asked."""
        values = {variable_of(one.name): getattr(self, one.name) for one in fields(self)}
        return {
            variable: "1" if value is True else str(value)
            for variable, value in values.items()
            if value is not None and value is not False
        }

    def of_the_model(self) -> tuple[str, ...]:
        """Return the options given that say how the model is trained, as they are written."""
        given = ((name, getattr(self, name)) for name in _OF_THE_MODEL)
        return tuple(
            option_of(name) if value is True else f"{option_of(name)} {value}"
            for name, value in given
            if value is not None and value is not False
        )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> RunOptions:
        """Read the variables; an empty one asks for nothing."""
        return cls.of({name: text for name in NAMES if (text := environ.get(variable_of(name)))})

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> RunOptions:
        """Return the options of these texts, by field name; of a flag any text."""
        return cls(**{name: _READ[name](text) for name, text in texts.items()})


def option_of(name: str) -> str:
    """Return the command line's option of a field."""
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """Return the environment variable in which a field travels."""
    return f"RELAUNCH_{name.upper()}"


_OF_THE_MODEL = ("strategy", "precision", "shard_blocks", "hybrid_shard", "exact")
_KINDS: Mapping[str, Callable[[str], Any]] = {
    "str | None": str,
    "bool": bool,
    "Path | None": Path,
}
_READ = {one.name: _KINDS[str(one.type)] for one in fields(RunOptions)}
NAMES = tuple(_READ)
FLAGS = frozenset(name for name, read in _READ.items() if read is bool)
PLACES = frozenset(("run_dir", "checkpoints"))
VARIABLES = frozenset(map(variable_of, NAMES))
