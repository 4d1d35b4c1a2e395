"""Which kinds of parameters are stepped whole where cut ones come out other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

Kind: TypeAlias = tuple[int, int]
"""Number of the group, and of dimensions."""


def kinds_to_keep_whole(
    kinds: Sequence[Kind], problem_of: Callable[[frozenset[Kind]], str | None]
) -> tuple[frozenset[Kind], str | None]:
    """Return the kinds to be stepped whole, as few as may be, and what is wrong even so. Pure.

    An optimizer that looks at the shape of some matrix of a group may do so with the others later,
    where the trial has not met what makes it (AdamP projects only some gradients): all of the
    group with several dimensions are then whole.

    Args:
        kinds: all.
        problem_of: says what differs where these are whole and the rest is cut; None:
            nothing.
    """
    everything = frozenset(kinds)
    if problem := problem_of(everything):
        return everything, problem
    if problem_of(frozenset()) is None:
        return frozenset(), None
    needed = frozenset(kind for kind in kinds if problem_of(everything - {kind}))
    shaped = {group for group, ndim in needed if ndim > 1}
    whole = needed | {kind for kind in kinds if kind[0] in shaped and kind[1] > 1}
    return (whole, None) if problem_of(whole) is None else (everything, None)
