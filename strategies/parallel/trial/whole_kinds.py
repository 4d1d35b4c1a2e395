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

    Args:
        kinds: all.
        problem_of: says what comes out other where these are whole and the rest is cut; None:
            nothing.
    """
    everything = frozenset(kinds)
    if problem := problem_of(everything):
        return everything, problem
    if problem_of(frozenset()) is None:
        return frozenset(), None
    whole = frozenset(kind for kind in kinds if problem_of(everything - {kind}))
    return (whole, None) if problem_of(whole) is None else (everything, None)
