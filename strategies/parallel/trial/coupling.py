"""Whether an optimizer reads one parameter while it updates another.

One that pairs the matrices of a group, or balances two layers, becomes another optimizer where
ranks hold parts of its parameters, and where one rank each steps them whole. The trial of what is
cut takes a few parameters of a kind, which need not be those that belong together. So many of them
are stepped here, very small and whole, some with other values and gradients: what becomes of the
rest must stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import comb

import torch

from ...errors import ConfigError, first_line
from .comparison import require_alike
from .likeness import Factory, Likeness, TrialNotMade, groups_of
from .stepping import Part, UnlikeError, Whole

MOST_PARAMETERS = comb(8, 4)
"""That are stepped: so many can be told apart by eight sets."""
_MOST_ROWS = 16
"""In each dimension. Sides that are equal stay equal, as those of two matrices for a product."""
_STEPS = 6
_SCALES = (1.0, 1e-2, 1e-4)
"""Of the gradients, in turns: some optimizers leave out what is large, or what is small."""


def require_uncoupled(factory: Factory, likeness: Likeness) -> None:
    """Step small whole parameters, some of them disturbed, and compare the others.

    Args:
        factory: the user's.
        likeness: what has been tried.

    Raises:
        UnlikeError: the update of a parameter depends on another one; names both.
    """
    names = related(likeness.groups, likeness.chosen)
    if len(names) < 2:
        return
    try:
        tried = _Disturbances(factory, _smallest(factory, likeness, names))
    except UnlikeError:  # its function or its steps ask for larger ones
        tried = _Disturbances(factory, _Disturbed.of(likeness, names))
    tried.require_same_rest(separating_sets(names))


def separating_sets(names: Sequence[str]) -> list[frozenset[str]]:
    """Return as few sets of names as may be; for any two, some set has the first alone. Pure.

    Each name is in another half of the sets (Sperner's families).
    """
    if len(names) < 2:
        return []
    num_sets = next(k for k in range(2, len(names) + 1) if comb(k, k // 2) >= len(names))
    codes = dict(zip(names, combinations(range(num_sets), num_sets // 2), strict=False))
    return [frozenset(n for n, code in codes.items() if one in code) for one in range(num_sets)]


def related(groups: Sequence[Sequence[str]], chosen: Sequence[str]) -> list[str]:
    """Return the names of what is stepped: all, or what may belong to some. Pure.

    Args:
        groups: names of the parameters of each group.
        chosen: some of each kind; their neighbours in the group belong to them, and what has the
            same place in another group.
    """
    everything = [name for names in groups for name in names]
    if len(everything) <= MOST_PARAMETERS:
        return everything
    wanted, found = set(chosen), dict[str, None]()
    for names in groups:
        for place in (place for place, name in enumerate(names) if name in wanted):
            found |= dict.fromkeys(names[max(place - 1, 0) : place + 2])
            found |= dict.fromkeys(other[place] for other in groups if place < len(other))
    return list(found)[:MOST_PARAMETERS]


@dataclass(frozen=True, kw_only=True)
class _Disturbed(Likeness):
    """Small parameters, some with other values and gradients than they would have."""

    disturbed: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, likeness: Likeness, names: Sequence[str]) -> _Disturbed:
        """Return the same parameters, of which these get gradients; none is disturbed."""
        return cls(
            shapes=likeness.shapes, chosen=names, groups=likeness.groups, device=likeness.device
        )

    def values(self) -> dict[str, torch.Tensor]:
        """Return the values at the beginning."""
        return {name: self._seen(name, value, 1.7) for name, value in super().values().items()}

    def gradients(self, step: int) -> dict[str, torch.Tensor]:
        """Return the gradients of a step."""
        scale, by = _SCALES[step % len(_SCALES)], (1.7, -0.6)[step % 2]
        drawn = super().gradients(step)
        return {name: scale * self._seen(name, value, by) for name, value in drawn.items()}

    def _seen(self, name: str, value: torch.Tensor, by: float) -> torch.Tensor:
        # Of another norm, sometimes of another sign, and no multiple.
        if name not in self.disturbed:
            return value
        return by * value.reshape(-1).flip(0).view(value.shape)


def _smallest(factory: Factory, likeness: Likeness, names: Sequence[str]) -> _Disturbed:
    """Return even smaller parameters; the optimizer's cost may grow by the third power.

    Raises:
        UnlikeError: the factory makes another optimizer for them.
    """
    shapes = {
        name: tuple(min(side, _MOST_ROWS) for side in shape)
        for name, shape in likeness.shapes.items()
    }
    try:
        groups = groups_of(factory, shapes, likeness.device)
    except TrialNotMade as error:
        raise UnlikeError(f"it is not made for smaller ones ({error})") from error
    if groups != likeness.groups:
        raise UnlikeError("it groups smaller ones differently")
    return _Disturbed.of(replace(likeness, shapes=shapes, _known={}), names)


class _Rest(Whole):
    """All parameters of which some may be left out of a comparison."""

    left_out: frozenset[str] = frozenset()

    def parts(self) -> Iterator[Part]:
        """Yield the others."""
        return (part for part in super().parts() if part.name not in self.left_out)


class _Disturbances:
    """An optimizer's steps beside those in which some parameters are disturbed."""

    def __init__(self, factory: Factory, likeness: _Disturbed) -> None:
        """Take the steps in which none is.

        Raises:
            UnlikeError: one fails.
        """
        self._factory, self._likeness = factory, likeness
        self._undisturbed = self._stepped(frozenset())

    def require_same_rest(self, sets: Sequence[frozenset[str]]) -> None:
        """Disturb each set of parameters, and compare what is not in it.

        Raises:
            UnlikeError: something differs.
        """
        for disturbed in sets:
            if self._difference(disturbed) is None:
                continue
            fewer = self._fewest(disturbed)
            raise UnlikeError(
                f"it reads one parameter while it updates another: with other values and gradients "
                f"of {', '.join(sorted(fewer)[:3])}, {self._difference(fewer)}"
            )

    def _fewest(self, disturbed: frozenset[str]) -> frozenset[str]:
        """Return one of some parameters whose disturbance is seen, or those that it takes."""
        names = sorted(disturbed)
        halves = [frozenset(names[0::2]), frozenset(names[1::2])]
        seen = next((half for half in halves if half and self._difference(half)), disturbed)
        return seen if seen == disturbed else self._fewest(seen)

    def _difference(self, disturbed: frozenset[str]) -> UnlikeError | None:
        try:
            require_alike(self._undisturbed, [self._stepped(disturbed)])
        except (UnlikeError, ConfigError) as error:
            return error if isinstance(error, UnlikeError) else UnlikeError(str(error))
        return None

    def _stepped(self, disturbed: frozenset[str]) -> _Rest:
        one = _Rest(self._factory, replace(self._likeness, disturbed=disturbed))
        for number in range(_STEPS):
            try:
                one.step(number)
            except Exception as error:  # Whatever an optimizer raises.
                raise UnlikeError(f"step {number} fails with {first_line(error)}") from error
        one.left_out = disturbed
        return one
