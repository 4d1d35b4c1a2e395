"""Whether a checkpoint restores all state of an optimizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from checkpointing import JSON, TensorSpec
from checkpointing.format.strict_json import canonical_text, parse_json

from ...modifiers.ema import AVERAGE
from ..catalogue import MASTER
from ..state.hyperparameters import current_hyperparameters, merge, put_back, to_json
from ..state.optimizer_extras import extras_of, plain_attributes, put_back_extras
from ..state.optimizer_state import create_state, kept_state, state_spec
from ..state.saved_state import SavedState
from .comparison import require_alike
from .stepping import UnlikeError, Whole


class Resumable:
    """An optimizer over whole small parameters, and what a checkpoint of it would hold."""

    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        self._requested = current_hyperparameters(whole.optimizer.param_groups)
        self._as_built = plain_attributes(whole.optimizer)

    def continued_in(self, fresh: Whole) -> None:
        """Give another one, just made, the weights and all that is kept of this one's state.

        Raises:
            ConfigError: something has no place in a checkpoint.
            UnlikeError: something would be taken for another thing there.
        """
        tensors: dict[str, dict[str, torch.Tensor]] = {}
        values: dict[str, JSON] = {}
        for part in self.whole.parts():
            if AVERAGE in self.whole.optimizer.state.get(part.owner, {}):
                raise UnlikeError(f"it keeps a state named {AVERAGE}, as the average of weights is")
            kept = kept_state(self.whole.optimizer, part.owner, part.name, whole=True)
            tensors[part.name] = kept.tensors | kept.others
            values[part.name] = dict(kept.values)
        saved = self._through_json(values)
        specs = {
            name: {key: _spec_of(name, key, tensor) for key, tensor in of_one.items()}
            for name, of_one in tensors.items()
        }
        state = SavedState.of(specs, saved)
        requested = current_hyperparameters(fresh.optimizer.param_groups)
        as_built = plain_attributes(fresh.optimizer)
        for mine, theirs in zip(self.whole.parts(), fresh.parts(), strict=True):
            spec = _spec_of(mine.name, MASTER, mine.owner)
            theirs.owner.detach().copy_(mine.owner)
            created = create_state(fresh.optimizer, theirs.owner, state.get(mine.name), spec)
            for key, tensor in created.items():
                tensor.copy_(tensors[mine.name][key])
        put_back_extras(fresh.optimizer, as_built, saved["extras"])
        names = self.whole.likeness.groups
        put_back(fresh.optimizer.param_groups, merge(names, requested, saved["groups"])[0])

    def _through_json(self, values: dict[str, JSON]) -> dict[str, Any]:
        current = current_hyperparameters(self.whole.optimizer.param_groups)
        kept: dict[str, JSON] = {
            "groups": to_json(self.whole.likeness.groups, self._requested, current),
            "values": values,
            "extras": extras_of(self.whole.optimizer, self._as_built),
        }
        parsed: Any = parse_json(canonical_text(kept).encode("ascii"))
        return dict(parsed)


def require_resumed(whole: Whole, resumed: Whole) -> None:
    """Compare an undisturbed optimizer with one that was resumed from its checkpoint.

    Raises:
        UnlikeError: says what is not the same.
    """
    require_alike(whole, [resumed])


def _spec_of(name: str, key: str, tensor: torch.Tensor) -> TensorSpec:
    spec = TensorSpec(fqn=name, key=key, shape=tuple(tensor.shape), dtype="F32")
    return replace(state_spec(spec, key, tensor.dtype), shape=tuple(tensor.shape))
