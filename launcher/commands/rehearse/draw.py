"""Which faults come, and when: a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .kinds import FaultKind


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of a rehearsal."""

    number: int
    """From 1."""
    kind: FaultKind
    at_step: int
    """It comes once so many steps are done."""
    share: float
    """The same for a script without `Run`: a share of how long it runs, from 0 to 1."""
    rank: int
    """The rank that it is about, where it is about one."""


def draw(
    seed: int, count: int, kinds: Sequence[FaultKind], *, steps: int, ranks: int
) -> list[Fault]:
    """Return the faults of a seed; none comes twice before all others have come. Pure.

    The first faults of a longer rehearsal are those of a shorter one.

    Args:
        seed: any number.
        count: how many.
        kinds: of them; their order does not matter.
        steps: of the run.
        ranks: of the run.
    """
    known = sorted(kinds, key=lambda kind: kind.name)
    found: list[Fault] = []
    for number in range(1, count + 1):
        turn, place = divmod(number - 1, len(known))
        order = list(known)
        random.Random(f"{seed} {turn}").shuffle(order)
        rng = random.Random(f"{seed} {number}")
        found.append(
            Fault(
                number=number,
                kind=order[place],
                at_step=rng.randint(1, max(1, steps * 3 // 4)),
                share=rng.uniform(0.2, 0.8),
                rank=rng.randrange(ranks),
            )
        )
    return found
