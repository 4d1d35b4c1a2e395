"""Which trials a verification consists of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...contract.trial import TrialSettings
from ..trials.run_trial import TRACE, Trial

ZERO = ("zero1", "zero2", "zero3")
SINGLE, DDP = "single", "ddp"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked on the command line."""

    words: tuple[str, ...]
    ranks: tuple[int, ...]
    strategies: tuple[str, ...]
    """Named, or all that this machine has."""
    are_named: bool
    """Whether the strategies were named: then one that refuses the script is a failure."""
    steps: int
    timeout_s: float
    folder: Path
    names_strategy: bool = True
    """False: the script decides how its model is spread."""


def trials_of(asked: Asked) -> list[Trial]:
    """Return the first trial and those that are compared with it, in this order.

    Each number of ranks under ddp; the other strategies on 2 ranks, or the largest number that is
    asked for.
    """
    few, *more = sorted(asked.ranks)
    own = [s for s in asked.strategies if s != SINGLE]
    plain = own[0] if own and DDP not in own else DDP
    first = trial(asked, few, SINGLE if few == 1 else plain)
    pairs = [(ranks, plain) for ranks in more]
    wide = 2 if 2 in more else max(asked.ranks)
    pairs += [(wide, strategy) for strategy in own]
    taken = {(first.ranks, first.strategy)}
    others = []
    for ranks, strategy in pairs:
        if (ranks, strategy) not in taken:
            taken.add((ranks, strategy))
            others.append(trial(asked, ranks, strategy))
    return [first, *others]


def trial(asked: Asked, ranks: int, strategy: str) -> Trial:
    """Return the trial of so many ranks under a strategy."""
    folder = asked.folder / f"{strategy}-{ranks}"
    where = f"{ranks} rank{'' if ranks == 1 else 's'}"
    return Trial(
        name=f"{strategy} on {where}" if asked.names_strategy else where,
        names_strategy=asked.names_strategy,
        words=asked.words,
        ranks=ranks,
        strategy=strategy,
        folder=folder,
        settings=TrialSettings(steps=asked.steps, save_every_steps=1, trace=str(folder / TRACE)),
        timeout_s=asked.timeout_s,
    )


def again(first: Trial, label: str, *, hashed: bool = False, deterministic: bool = False) -> Trial:
    """Return the same trial in another folder, with one thing changed."""
    folder = first.folder.with_name(f"{first.folder.name}-{label}")
    return replace(
        first,
        name=f"{first.name}, {label}",
        folder=folder,
        settings=replace(first.settings, trace=str(folder / TRACE), deterministic=deterministic),
        variables={**first.variables, **({"PYTHONHASHSEED": "0"} if hashed else {})},
    )


def interrupted(undisturbed: Trial) -> Trial:
    """Return a trial that gets a preemption notice in its middle."""
    one = again(undisturbed, "resumed")
    at = max(1, undisturbed.settings.steps // 2)
    return replace(one, settings=replace(one.settings, notice_at=at))


def resumed(one: Trial) -> Trial:
    """Return the second start of an interrupted trial: in its folder, without the notice."""
    settings = replace(one.settings, notice_at=None)
    return replace(one, name=f"{one.name}, second start", settings=settings)


def numbers(text: str) -> tuple[int, ...]:
    """Read "1,2,3".

    Raises:
        ValueError: that is no list of numbers from 1 on.
    """
    found = tuple(int(word) for word in text.split(","))
    if not found or min(found) < 1:
        raise ValueError(text)
    return tuple(dict.fromkeys(found))


def without_engine(strategies: Sequence[str], *, has_deepspeed: bool) -> list[str]:
    """Return the strategies whose engine is installed."""
    return [s for s in strategies if s not in ZERO or has_deepspeed]
