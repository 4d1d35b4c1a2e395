"""What a mistake of the script's costs: its exit code, its sentence, and what is saved first.

Before a start has completed a step nothing is lost: code 2. Later the steps since the newest
checkpoint are at stake, and a save needs all ranks. A rank that has met a mistake cannot take part
in what the others do next, so they agree through the store, without a collective: only if every
rank comes, and to the same place, do they save together; a rank that is alone leaves at once after.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from strategies import Ranks

from ...contract.exit_codes import USAGE

FAILURE = 1
"""The exit code of a mistake that is met after a step."""
WAIT_S = 5.0
"""How long ranks wait for each other: the same mistake is met by all within a micro-batch."""
HURRY_S = 0.5
"""As WAIT_S, once there is a preemption notice: its grace is running."""
_LOOK_S = 0.02
_KEY = "relaunch/mistake/{}"
_VERDICT = "relaunch/mistake/verdict"


class Store(Protocol):
    """What is used of torch's store."""

    def set(self, key: str, value: str) -> None:
        """Write a value."""

    def get(self, key: str) -> bytes:
        """Return it, once it is there."""

    def check(self, keys: list[str]) -> bool:
        """Return at once whether all are there."""

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """Write a value that is as expected ("": missing); return what is there then."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a rank is in its run when the script's mistake ends it."""

    step: int
    """Optimizer steps that are finished."""
    place: tuple[str | int | bool, ...]
    """Within what follows them; ranks at the same place have exchanged the same."""
    newest_step: int | None
    """Of the newest checkpoint; None: there is none."""
    can_be_saved: bool
    """Something is not on the disk yet, and it is whole."""


def agree_to_save(
    ranks: Ranks,
    store: Store,
    standing: Standing,
    *,
    wait_s: float,
    asked: Callable[[], bool] = lambda: False,
) -> bool:
    """Return whether all ranks stand at the same place, each with a mistake; the same on all.

    Called on every rank that has met one. The coordinator decides, unless a rank has waited for
    too long before that: whoever writes the verdict first has decided for all.

    Args:
        ranks: all, and which this one is.
        store: which all share.
        standing: of this rank.
        wait_s: how long another rank is waited for.
        asked: returns whether this rank has a preemption notice, which leaves HURRY_S.
    """
    if ranks.world_size == 1:
        return True
    own = json.dumps([standing.step, *standing.place])
    store.set(_KEY.format(ranks.rank), own)
    is_agreed = False
    if ranks.is_coordinator:
        keys = [_KEY.format(rank) for rank in range(ranks.world_size)]
        are_here = _comes(store, keys, wait_s, asked)
        is_agreed = are_here and all(store.get(key) == own.encode() for key in keys)
    elif _comes(store, [_KEY.format(0)], wait_s, asked):
        # Once it has come it decides, in the same time.
        _comes(store, [_VERDICT], 2 * wait_s, asked)
    return store.compare_set(_VERDICT, "", "save" if is_agreed else "leave") == b"save"


def _comes(store: Store, keys: Sequence[str], wait_s: float, asked: Callable[[], bool]) -> bool:
    until_s = time.monotonic() + wait_s
    while not store.check(list(keys)):
        now_s = time.monotonic()
        if asked():
            until_s = min(until_s, now_s + HURRY_S)
        if now_s > until_s:
            return False
        time.sleep(_LOOK_S)
    return True


def save_before_leaving(
    standing: Standing,
    save: Callable[[], int | None],
    agree: Callable[[], bool],
) -> str:
    """Save what is finished if that is possible; return what came of it, as a sentence.

    Called on every rank that has met a mistake.

    Args:
        standing: of this rank.
        save: saves with all ranks, and returns the step of the newest checkpoint then.
        agree: returns whether all ranks will take part.
    """
    newest = standing.newest_step
    if standing.newest_step == standing.step:
        return kept_text(standing.step, newest)
    if not standing.can_be_saved:
        return kept_text(standing.step, newest, why="the parameters were being changed")
    if not agree():
        return kept_text(standing.step, newest, why="not all ranks reached this point")
    try:
        newest = save()
    except Exception as error:  # the mistake is what the run ends with, whatever follows from it
        return kept_text(standing.step, newest, why=f"the save failed: {error}")
    return kept_text(standing.step, newest, why="the save failed, see above")


def kept_text(step: int, newest: int | None, *, why: str = "") -> str:
    """Return what of the run is on the disk; pure.

    Args:
        step: steps that are finished.
        newest: the step of the newest checkpoint; None: there is none.
        why: it is not that of `step`.
    """
    if newest == step:
        steps = "step is" if step == 1 else "steps are"
        return (
            f"The {step} finished {steps} saved: after you have fixed this, the same command "
            "resumes from there."
        )
    from_step = newest or 0
    return (
        f"The steps since step {from_step} could not be saved ({why}). After you have fixed "
        f"this, the same command starts from step {from_step}."
    )


def mistake_text(sentence: str, where: str | None, *, step: int | None = None) -> str:
    """Return the sentence with the user's own line in front; pure.

    Args:
        sentence: about the mistake.
        where: such as "train.py:41"; None: it came from no line of the user's.
        step: that the rank was in; None: none was begun.
    """
    if where is None or where in sentence:
        return sentence
    place = where if step is None else f"{where}, in step {step}"
    return f"{place}: {sentence}"


def code_of_mistake(*, has_trained: bool) -> int:
    """Return the exit code: 2 says that nothing was begun and nothing is lost."""
    return FAILURE if has_trained else USAGE
