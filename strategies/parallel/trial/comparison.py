"""Whether the parts of a cut optimizer did what the whole one did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from checkpointing import JSON

from ...errors import ConfigError
from ..state.hyperparameters import current_hyperparameters
from ..state.optimizer_extras import extras_of, plain_attributes
from ..state.optimizer_state import kept_state
from .stepping import Part, Stepped, UnlikeError, Whole

_RELATIVE = 1e-6
"""Of the largest value, or of how far the steps have moved. Elementwise work is equal to the bit,
but for the last one where a kernel treats the end of a tensor apart."""
_ROUNDING = 4 * torch.finfo(torch.float32).eps


def require_alike(whole: Whole, parts: Sequence[Stepped]) -> None:
    """Compare weights, states and groups after the same steps.

    Args:
        whole: what is right.
        parts: what some ranks have stepped, in parts or whole.

    Raises:
        UnlikeError: says what is not the same.
    """
    for one in parts:
        _require_savable(one)
    begun = whole.likeness.values()
    kept = {part.name: part for part in whole.parts()}
    for one in parts:
        for part in one.parts():
            _require_same_weights(part, kept[part.name], begun[part.name])
            _require_same_state(part, one, kept[part.name], whole)
        for number, (mine, theirs) in enumerate(zip(_groups(whole), _groups(one), strict=True)):
            _require_same_values(f" of parameter group {number}", mine, theirs)
        _require_same_values("", *(_beside(each.optimizer) for each in (whole, one)))


def kept_for_whole_alone(whole: Whole) -> dict[str, str]:
    """Return what no part could keep, by the name of the parameter: it is of another size.

    So what is cut need not even be tried. A matrix for each side of a parameter is small; of a flat
    part it has as many rows as that has elements, and its root takes minutes.
    """
    found: dict[str, str] = {}
    for part in whole.parts():
        kept = kept_state(whole.optimizer, part.owner, part.name, whole=True)
        for key, tensor in kept.others.items():
            if tensor.numel() > 1:
                found[part.name] = (
                    f"it keeps {key} of shape {tuple(tensor.shape)} for {part.name} of shape "
                    f"{tuple(part.owner.shape)}"
                )
    return found


def _require_savable(one: Stepped) -> None:
    for part in one.parts():
        if part.is_whole:
            continue
        kept = one.optimizer.state.get(part.owner, {})
        for key, value in kept.items():
            if isinstance(value, torch.Tensor) and 1 < value.numel() != part.owner.numel():
                raise UnlikeError(
                    f"it keeps {key} of shape {tuple(value.shape)} for a part of shape "
                    f"{tuple(part.owner.shape)}"
                )
        try:
            kept_state(one.optimizer, part.owner, part.name)
        except ConfigError as error:
            raise UnlikeError(f"what it keeps for {part.name}: {error.__cause__}") from error


def _require_same_weights(part: Part, whole: Part, begun: torch.Tensor) -> None:
    wanted = whole.of(whole.owner)
    moved = float((wanted - begun.reshape(-1)).abs().max()) if wanted.numel() else 0.0
    mine, found = wanted[part.start : part.end], part.of(part.owner)
    difference = _difference(mine, found)
    if not difference <= _RELATIVE * moved + _ROUNDING * _largest(wanted):
        raise UnlikeError(
            f"a parameter of {whole.owner.ndim} dimensions ({part.name}), which its steps move by "
            f"{moved:.2g}, differs by {difference:.2g}"
        )


def _require_same_state(part: Part, one: Stepped, whole_part: Part, whole: Whole) -> None:
    mine = kept_state(whole.optimizer, whole_part.owner, part.name, whole=True)
    theirs = kept_state(one.optimizer, part.owner, part.name, whole=part.is_whole)
    if mine.tensors.keys() != theirs.tensors.keys():
        raise UnlikeError(
            f"it keeps {_list(theirs.tensors)} for a part of a parameter of "
            f"{whole_part.owner.ndim} dimensions, and {_list(mine.tensors)} for the whole"
        )
    for key, tensor in mine.tensors.items():
        wanted, found = tensor.detach().reshape(-1), part.of(theirs.tensors[key])
        _require_same_tensor(key, part, wanted[part.start : part.end], found, _largest(wanted))
    _require_same_values(f" of {part.name}", mine.values, theirs.values)
    for key, tensor in mine.others.items() if part.is_whole else ():
        found = theirs.others[key]
        _require_same_tensor(key, part, tensor.reshape(-1), found.reshape(-1), _largest(tensor))


def _require_same_tensor(
    key: str, part: Part, wanted: torch.Tensor, found: torch.Tensor, largest: float
) -> None:
    if not _difference(wanted, found) <= _RELATIVE * largest:
        raise UnlikeError(f"its {key} of {part.name} differs")


def _require_same_values(where: str, mine: Mapping[str, JSON], theirs: Mapping[str, JSON]) -> None:
    for key in dict.fromkeys((*mine, *theirs)):
        if key not in mine or key not in theirs or not _is_near(mine[key], theirs[key]):
            raise UnlikeError(
                f"its {key}{where} becomes {_shown(theirs.get(key))} where it would be "
                f"{_shown(mine.get(key))}"
            )


def _is_near(mine: Any, theirs: Any) -> bool:
    """Whether two encoded values are equal up to the order of sums."""
    if isinstance(mine, float) and isinstance(theirs, float):
        return math.isclose(mine, theirs, rel_tol=_RELATIVE, abs_tol=1e-30)
    if isinstance(mine, list) and isinstance(theirs, list):
        return len(mine) == len(theirs) and all(map(_is_near, mine, theirs))
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(_is_near(mine[k], theirs[k]) for k in mine)
    return bool(mine == theirs)


def _groups(stepped: Stepped) -> list[dict[str, JSON]]:
    return current_hyperparameters(stepped.optimizer.param_groups)


def _beside(optimizer: torch.optim.Optimizer) -> dict[str, JSON]:
    return {**plain_attributes(optimizer), "state": extras_of(optimizer, {})["shared"]}


def _difference(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference; 0 where both are not a number."""
    if mine.dtype != theirs.dtype:
        return math.inf
    if not mine.numel():
        return 0.0
    apart = (mine.double() - theirs.double()).abs()
    return float(apart.masked_fill(mine.isnan() & theirs.isnan() | (mine == theirs), 0.0).max())


def _largest(tensor: torch.Tensor) -> float:
    return float(tensor.double().abs().nan_to_num().max()) if tensor.numel() else 0.0


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _shown(value: Any) -> str:
    return str(value)[:80]
