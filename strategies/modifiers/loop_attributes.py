"""What a training loop sets on the model beside its weights: modes and plain attributes.

`job.model.drop.p = 0.3` at step 1000, or `job.model.backbone.eval()` after an epoch, is not done
again by a start that resumes behind it. So a checkpoint holds what differs from how the loop began.
Held are `training` of every module, what the loop has set through `job.model`, and the plain
attributes of torch's own modules, which no forward moves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from torch import nn

from .moving_numbers import OF_ENGINES, SET_BY_LOOP

Attributes: TypeAlias = Mapping[str, Mapping[str, Any]]
"""By module: attribute -> value."""
_MODE = "training"
_TRAINED = "requires_grad"
_TORCH = "torch.nn.modules."


class LoopAttributes:
    """Finds what the loop sets, and sets it again. No method is collective."""

    def __init__(self, model: nn.Module) -> None:
        """Put a model that has just been built into training mode, as every loop begins."""
        self._model: nn.Module | None = model
        self._named: dict[str, nn.Module | nn.Parameter] = dict(model.named_modules())
        self._begun: dict[tuple[str, str], Any] = {}
        model.train()

    @classmethod
    def of_own_loop(cls, models: Mapping[str, nn.Module]) -> LoopAttributes:
        """Return the same for the models of a script's own loop, in the modes that they are in.

        Such a loop may freeze and unfreeze parameters too.
        """
        made = cls.__new__(cls)
        made._model, made._begun = None, {}
        found = [
            (f"{prefix}.{name}".strip("."), one)
            for prefix, model in models.items()
            for name, one in (*model.named_modules(), *model.named_parameters())
        ]
        made._named = dict(found)
        return made

    def begin(self, saved: Attributes) -> None:
        """Begin the loop: parts stay in the mode that the script has given them ahead of it.

        Args:
            saved: of the checkpoint, what the loop had set so far.
        """
        if self._model is not None and not self._model.training:
            self._model.train()
        self._begun = {(name, key): value for name, key, value in self._plain()}
        self._set(saved)

    def go_back(self, saved: Attributes) -> list[str]:
        """Set everything as it was at an earlier checkpoint; return a phrase for each change.

        Args:
            saved: of that checkpoint, what the loop had set so far.
        """
        before = self.changed()
        for name, attributes in before.items():
            for key in attributes:
                begun = self._begun.get((name, key), _Absent)
                if begun is _Absent:
                    delattr(self._named[name], key)
                else:
                    setattr(self._named[name], key, begun)
        self._set(saved)
        values = {(n, k): v for n, k, v in self._plain()}
        return [
            f"{name}.{key} is {values.get((name, key), 'not set')} again".lstrip(".")
            for name, attributes in before.items()
            for key, value in attributes.items()
            if values.get((name, key), _Absent) != value
        ]

    def _set(self, saved: Attributes) -> None:
        for name, attributes in saved.items():
            if (one := self._named.get(name)) is not None:
                if isinstance(one, nn.Module):
                    vars(one).setdefault(SET_BY_LOOP, set()).update({*attributes} - {_MODE})
                for key, value in attributes.items():
                    setattr(one, key, value)

    def changed(self) -> dict[str, dict[str, Any]]:
        """Return what is not as the loop began."""
        found: dict[str, dict[str, Any]] = {}
        for name, key, value in self._plain() if self._begun else ():
            if self._begun.get((name, key), _Absent) != value and _is_set_by_loop(
                self._named[name], key
            ):
                found.setdefault(name, {})[key] = value
        return found

    def _plain(self) -> Iterator[tuple[str, str, Any]]:
        for name, one in self._named.items():
            if isinstance(one, nn.Parameter):
                yield name, _TRAINED, one.requires_grad
                continue
            for key, value in vars(one).items():
                if type(value) in (bool, int, str) or (
                    type(value) is float and math.isfinite(value)
                ):
                    yield name, key, value


class _Absent:
    """In place of a value where there was none."""


def _is_set_by_loop(module: nn.Module | nn.Parameter, key: str) -> bool:
    if isinstance(module, nn.Parameter) or key == _MODE or key in vars(module).get(SET_BY_LOOP, ()):
        return True
    is_torchs = type(module).__module__.startswith(_TORCH)
    return is_torchs and not key.startswith(("_", *OF_ENGINES))
