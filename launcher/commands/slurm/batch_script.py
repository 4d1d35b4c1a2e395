"""The text of a batch script; pure."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UsageError
from .sbatch_options import SbatchOptions

_PLAIN = re.compile(r"[\w@%+=:,./\[\]*!&|-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ELEMENT = "$SLURM_ARRAY_TASK_ID"


@dataclass(frozen=True, kw_only=True)
class BatchScript:
    """What a batch script is made of."""

    name: str
    """The job's, unless the options give another."""
    options: SbatchOptions
    command: Sequence[str]
    """`relaunch` or its path."""
    words: Sequence[str]
    """relaunch's options, the training script and its arguments."""

    def __post_init__(self) -> None:
        for name, value in (("job-name", self.name), *self.options.given):
            check_value(name, value)

    def text(self) -> str:
        """Return the script."""
        options = self.options
        lines = ["#!/bin/bash", _option("job-name", options.get("job-name") or self.name)]
        lines += [_option(k, v) for k, v in options.given if k not in ("job-name", *_DEFAULTS)]
        lines.append("# One task a node: relaunch starts the ranks of a node itself.")
        lines.append(self._or("ntasks-per-node", "1"))
        lines.append(
            "# After a preemption or the time limit the same job resumes, in the same log."
        )
        if not options.has("no-requeue"):
            lines.append(_option("requeue", None))
        lines.append(self._or("open-mode", "append"))
        lines.append(self._or("output", "%x-%A_%a.out" if options.has("array") else "%x-%j.out"))
        lines.append("# Two minutes before the time limit all ranks are asked to save and exit.")
        lines.append(self._or("signal", "USR1@120"))
        lines += ["", *_CONTAINER, f"exec {self._call()}", ""]
        return "\n".join(lines)

    def _or(self, name: str, default: str) -> str:
        return _option(name, self.options.get(name) or default)

    def _call(self) -> str:
        words = [*self.command, *self.words]
        return " ".join(quote(word) for word in words)


_DEFAULTS = ("ntasks-per-node", "requeue", "open-mode", "output", "signal")
_CONTAINER = (
    "# In a container: install relaunch here and in the image, and put before the script",
    '#     --container "apptainer exec --nv image.sif"',
)


def quote(word: str) -> str:
    """Quote a word for the shell, except for the number of an array's element."""
    if _ELEMENT not in word:
        return shlex.quote(word)
    return _ELEMENT.join(
        shlex.quote(part) if part else "" for part in word.split(_ELEMENT)
    ).replace(_ELEMENT, '"$SLURM_ARRAY_TASK_ID"')


def quote_value(value: str) -> str:
    r"""Quote an option's value as sbatch reads it, which is not how a shell does.

    Between quotes of either kind it takes a backslash as the sign that the next character stands
    for itself; outside of them it has none, and `#` begins a comment. (Seen on 22.05.)
    """
    if _PLAIN.fullmatch(value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def check_value(name: str, value: str | None) -> None:
    """See whether a value fits on one line of the script.

    Raises:
        UsageError: It has a control character; a line end would begin a line of the shell's.
    """
    if value is not None and (found := _CONTROL.search(value)) is not None:
        raise UsageError(
            f"--{name}={json.dumps(value)} has the control character {json.dumps(found[0])}, which "
            "no line of a batch script can hold. Write a blank in its place."
        )


def _option(name: str, value: str | None) -> str:
    return f"#SBATCH --{name}" if value is None else f"#SBATCH --{name}={quote_value(value)}"
