"""Numbers that a model's forward carries on in plain attributes: counters, moving averages.

`self.calls += 1` in a forward counts this rank's micro-batches since this start. It is found in the
first micro-batches: a number that moves in each of them, and that the loop does not set itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import nn

from ..errors import some_of

LOOKED_AT = 4
"""Micro-batches of each start."""
SET_BY_LOOP = "_relaunch_set_by_loop"
"""An attribute of a module: names of those that the training loop has set."""
OF_ENGINES = ("ds_", "applied_pre_backward")
"""Begin the names of attributes that DeepSpeed counts in."""
_SHOWN = 5

_Key: TypeAlias = tuple[int, str]


class MovingNumbers:
    """Looks at the plain numbers of a model's modules. No method is collective."""

    def __init__(self, model: nn.Module) -> None:
        self._named = [(name, module) for name, module in model.named_modules()]
        self._before: dict[_Key, Any] = {}
        self._moved: set[_Key] = set()
        self._num_seen = 0
        self._is_told = False

    def begin_micro_batch(self) -> None:
        """Remember them before a forward."""
        if self._num_seen < LOOKED_AT:
            self._before = self._numbers()

    def end_micro_batch(self) -> None:
        """Keep those that have moved so far in each micro-batch."""
        if self._num_seen >= LOOKED_AT:
            return
        now, before = self._numbers(), self._before
        moved = {key for key, value in now.items() if key not in before or before[key] != value}
        self._moved = moved if self._num_seen == 0 else self._moved & moved
        self._num_seen += 1

    def end_step(self) -> list[str]:
        """Return a sentence about them, once."""
        if self._num_seen < LOOKED_AT or self._is_told:
            return []
        self._is_told, self._before = True, {}
        names = [
            f"{prefix}.{key}".lstrip(".")
            for prefix, module in self._named
            for key in vars(module)
            if (id(module), key) in self._moved
        ]
        return [sentence(names)] if names else []

    def _numbers(self) -> dict[_Key, Any]:
        return {
            (id(module), key): value
            for _, module in self._named
            for key, value in vars(module).items()
            if type(value) in (int, float)
            and key not in vars(module).get(SET_BY_LOOP, ())
            and not key.startswith(OF_ENGINES)
        }


def sentence(names: Sequence[str]) -> str:
    """Return the warning about plain numbers that a forward updates."""
    return (
        f"the model's forward updates {some_of(names, _SHOWN)}, a plain number: no checkpoint "
        "holds it, so it is reset at every start, and each rank updates it from its own "
        "micro-batches. If the curve depends on it, it depends on both. Set it in your loop "
        "instead, from step.number"
    )
