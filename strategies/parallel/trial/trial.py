"""The optimizer is tried before the run: whole, resumed, and cut as the strategy cuts it.

What looks at shapes, at norms of whole tensors or at all parameters together becomes another
optimizer over the parts that ranks hold, without an error. It is seen on a few small parameters.
Where that is so, it is tried once more with parameters that one rank each steps whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from ...errors import ConfigError, first_line
from ..model.factory_checks import made_optimizer
from ..state.optimizer_state import names_by_group
from ..strategy import Parameters
from .comparison import kept_for_whole_alone, require_alike
from .coupling import require_uncoupled
from .likeness import Factory, Likeness, TrialNotMade, apart, likeness_of
from .owned import OWNED_RANKS
from .resumption import Resumable, require_resumed
from .stepping import NUM_RANKS, Stepped, UnlikeError, Whole
from .whole_kinds import Kind, kinds_to_keep_whole

_STEPS_BEFORE, _STEPS_AFTER = 6, 6
"""A save, in between. Many optimizers do something else in every fifth, sixth or tenth step."""
Named: TypeAlias = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a strategy cuts what it steps."""

    strategy: str
    rank: Callable[[Factory, Likeness, int], Stepped]
    """Returns what one of `NUM_RANKS` ranks steps."""
    here: Callable[[Factory, Likeness], Stepped] | None = None
    """Returns what this rank steps, in the engine's own tensors."""
    owned: Callable[[Factory, Likeness, int, frozenset[str]], Stepped] | None = None
    """Returns what one of `OWNED_RANKS` ranks steps where parameters of some names are stepped
    whole, each by one rank; None: the strategy cannot."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a trial has shown."""

    cut: Cut | None
    groups: Sequence[Sequence[str]] | None
    """Names of the parameters of each group of the small optimizer; None: none was made."""
    problem: str | None = None
    """Why it could not be tried."""
    whole: frozenset[str] | None = None
    """Names of the parameters that are to be stepped whole by one rank each, the others in plain
    parts; None: the strategy steps all as it is."""


def tried_optimizer(
    factory: Factory, named: Named, *, device: torch.device, cut: Cut | None
) -> Tried:
    """Try the factory's optimizer on small parameters. Called on every rank.

    Args:
        factory: the user's.
        named: the parameters to be trained, which may be sharded already.
        device: where they are stepped.
        cut: how the strategy cuts them; None: every rank steps them whole.

    Raises:
        ConfigError: it would not do under this strategy what it does on one rank, or would not
            come back from a checkpoint.
    """
    problem, likeness, whole = None, None, None
    with apart(device):
        try:
            likeness = likeness_of(factory, named, device)
            whole = _try(factory, likeness, cut)
        except TrialNotMade as error:
            problem = f"cannot be made for them ({error})"
    groups = None if likeness is None else likeness.groups
    return Tried(cut=cut, groups=groups, problem=problem, whole=whole)


def made_after_trial(
    factory: Factory, named: Named, tried: Tried, *, former: Mapping[int, str] | None = None
) -> tuple[torch.optim.Optimizer, list[list[str]]]:
    """Make the optimizer for the model's parameters. Called on every rank.

    Args:
        factory: the user's, called once more.
        named: the parameters to be trained, or what stands for them.
        tried: what it has done with small ones.
        former: by id(), the names of the model's parameters before it was sharded.

    Returns:
        The optimizer, and the names of the parameters of each of its groups.

    Raises:
        ConfigError: it is not the one that was tried, and the strategy cuts parameters.
    """
    optimizer = made_optimizer(factory, Parameters(named))  # may raise what the trial has met
    groups = names_by_group(optimizer, named, former)
    problem = tried.problem
    if tried.groups is not None and groups != tried.groups:
        problem = "groups them differently from those of the model"
    if problem is not None and tried.cut is not None:
        raise ConfigError(
            f"strategy={tried.cut.strategy} splits parameters, so the optimizer is tested on small "
            f"ones before the training, and optimizer= {problem}. Make groups by name or by the "
            "number of dimensions, or use --strategy ddp (single on one rank)."
        )
    return optimizer, groups


def _try(factory: Factory, likeness: Likeness, cut: Cut | None) -> frozenset[str] | None:
    """Take the same steps undisturbed, resumed and cut; return what is to be stepped whole.

    Raises:
        ConfigError: they do not come to the same.
        TrialNotMade: the factory does not make it.
    """
    whole, resumed = Whole(factory, likeness), Whole(factory, likeness)
    name, before = type(whole.optimizer).__name__, Resumable(whole)
    try:
        _take(whole, range(_STEPS_BEFORE))
        before.continued_in(resumed)
        after = range(_STEPS_BEFORE, _STEPS_BEFORE + _STEPS_AFTER)
        _take(whole, after)
    except UnlikeError as error:
        raise ConfigError(
            f"{name} does not work under any strategy: tested on small parameters like "
            f"the model's, {error}."
        ) from error
    try:
        _take(resumed, after)
        require_resumed(whole, resumed)
    except UnlikeError as error:
        raise ConfigError(
            f"{name} has state that no checkpoint holds, so a resume would change the result: "
            f"tested on small parameters and resumed, {error}. Use an "
            "optimizer that keeps its state in `state` and its parameter groups, such as AdamW."
        ) from error
    return None if cut is None else _whole_where_cut(factory, whole, cut)


def _whole_where_cut(factory: Factory, whole: Whole, cut: Cut) -> frozenset[str] | None:
    """Return what is to be stepped whole; None: nothing, all is stepped as it is cut.

    Raises:
        ConfigError: neither comes to the same.
    """
    names: frozenset[str] | None = None
    trouble: str | None = None
    try:
        try:
            _require_same_cut(factory, whole, cut)
        except (UnlikeError, ConfigError):
            names, trouble = _names_to_keep_whole(factory, whole, cut)
            if trouble is not None:
                raise
        require_uncoupled(factory, whole.likeness)
    except (UnlikeError, ConfigError) as error:
        raise ConfigError(
            f"{type(whole.optimizer).__name__} gives another result if parameters are split, as "
            f"under strategy={cut.strategy}: tested on small ones, {error}{trouble or ''}. Use "
            "--strategy ddp (single on one rank), or an elementwise optimizer such as SGD, Adam or "
            "AdamW."
        ) from error
    return names


def _names_to_keep_whole(
    factory: Factory, whole: Whole, cut: Cut
) -> tuple[frozenset[str], str | None]:
    """Return what is to be stepped whole, and what is wrong even so."""
    owned = cut.owned
    if owned is None or whole.draws:
        return frozenset(), ""
    kind_of, uncut = whole.likeness.kinds(), kept_for_whole_alone(whole)

    def problem_of(kinds: frozenset[Kind]) -> str | None:
        names = frozenset(name for name, kind in kind_of.items() if kind in kinds)
        if cut_ones := uncut.keys() - names:
            return f"; and where it is cut, {uncut[min(cut_ones)]}"
        steps = range(_STEPS_BEFORE + _STEPS_AFTER)
        try:
            ranks = [owned(factory, whole.likeness, rank, names) for rank in range(OWNED_RANKS)]
            for one in ranks:
                _take(one, steps)
            require_alike(whole, ranks)
        except (UnlikeError, ConfigError, TrialNotMade) as error:
            return f"; and with each parameter stepped whole by one rank, {error}"
        return None

    kinds, problem = kinds_to_keep_whole(list(dict.fromkeys(kind_of.values())), problem_of)
    return frozenset(name for name, kind in kind_of.items() if kind in kinds), problem


def _require_same_cut(factory: Factory, whole: Whole, cut: Cut) -> None:
    steps, likeness = range(_STEPS_BEFORE + _STEPS_AFTER), whole.likeness
    if whole.draws:
        raise UnlikeError("its steps draw random numbers, which then depend on the parts")
    if uncut := kept_for_whole_alone(whole):
        raise UnlikeError(next(iter(uncut.values())))
    ranks = [cut.rank(factory, likeness, rank) for rank in range(NUM_RANKS)]
    for one in ranks:
        _take(one, steps)
    require_alike(whole, ranks)
    if cut.here is not None:
        here = cut.here(factory, likeness)
        _take(here, steps)
        require_alike(whole, [here])


def _take(stepped: Stepped, steps: range) -> None:
    for number in steps:
        try:
            stepped.step(number)
        except Exception as error:  # Whatever an optimizer raises.
            raise UnlikeError(f"step {number} fails with {first_line(error)}") from error
