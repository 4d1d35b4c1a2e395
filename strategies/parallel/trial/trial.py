"""The optimizer is tried before the run: whole, resumed, and cut as the strategy cuts it.

What looks at shapes, at norms of whole tensors or at all parameters together becomes another
optimizer over the parts that ranks hold, without an error. It is seen on a few small parameters.
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
from .comparison import require_alike
from .likeness import Factory, Likeness, TrialNotMade, apart, likeness_of
from .resumption import Resumable, require_resumed
from .stepping import NUM_RANKS, Stepped, UnlikeError, Whole

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


def made_after_trial(
    factory: Factory,
    named: Named,
    *,
    device: torch.device,
    cut: Cut | None,
    former: Mapping[int, str] | None = None,
) -> tuple[torch.optim.Optimizer, list[list[str]]]:
    """Try the factory's optimizer on small parameters, then make it for these.

    Called on every rank. The factory is called several times, the last time for these.

    Args:
        factory: the user's.
        named: the parameters to be trained, which may be sharded already.
        device: where they are stepped.
        cut: how the strategy cuts them; None: every rank steps them whole.
        former: by id(), the names of the model's parameters before it was sharded.

    Returns:
        The optimizer, and the names of the parameters of each of its groups.

    Raises:
        ConfigError: it would not do under this strategy what it does on one rank, or would not
            come back from a checkpoint.
    """
    problem, likeness = None, None
    with apart(device):
        try:
            likeness = likeness_of(factory, named, device)
            _try(factory, likeness, cut)
        except TrialNotMade as error:
            problem = f"cannot be made for them ({error})"
    optimizer = made_optimizer(factory, Parameters(named))  # which may raise the same for these
    groups = names_by_group(optimizer, named, former)
    if likeness is not None and groups != likeness.groups:
        problem = "groups them otherwise than those of the model"
    if problem is not None and cut is not None:
        raise ConfigError(
            f"strategy={cut.strategy} cuts parameters, so the optimizer is tried on small ones "
            f"before the training, and optimizer= {problem}. Make groups by name or by the number "
            "of dimensions, or use --strategy ddp (single on one rank)."
        )
    return optimizer, groups


def _try(factory: Factory, likeness: Likeness, cut: Cut | None) -> None:
    """Take the same steps undisturbed, resumed and cut.

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
            f"{name} cannot be trained with, under any strategy: tried on small parameters like "
            f"the model's, {error}."
        ) from error
    try:
        _take(resumed, after)
        require_resumed(whole, resumed)
    except UnlikeError as error:
        raise ConfigError(
            f"{name} keeps something that no checkpoint holds, so a run could not resume as if "
            f"nothing had happened: tried on small parameters and resumed, {error}. Use an "
            "optimizer that keeps all in its state and its parameter groups, such as AdamW."
        ) from error
    if cut is None:
        return
    try:
        _require_same_cut(factory, whole, cut)
    except (UnlikeError, ConfigError) as error:
        raise ConfigError(
            f"{name} is another optimizer where parameters are cut, as strategy={cut.strategy} "
            f"cuts them: tried on small ones, {error}. Use --strategy ddp (single on one rank), or "
            "an elementwise optimizer such as SGD, Adam or AdamW."
        ) from error


def _require_same_cut(factory: Factory, whole: Whole, cut: Cut) -> None:
    steps, likeness = range(_STEPS_BEFORE + _STEPS_AFTER), whole.likeness
    if whole.draws:
        raise UnlikeError("its steps draw random numbers, which then depend on the parts")
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
