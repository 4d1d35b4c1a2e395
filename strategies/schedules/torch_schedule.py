"""Any scheduler of torch, driven by the optimizer step.

The scheduler is built on a stand-in optimizer that has the real one's parameter groups and no
parameters, and is stepped to where the run is: its state is derived from the step, so nothing of it
needs to be saved, and it cannot run too fast on many ranks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from ..errors import ConfigError
from .length import Length, Span, require_length, steps_of

_SUDDEN = 10.0
"""A fall by so much from one step to the next, to the group's own rate, is no schedule's."""
_MOST_LOOKED_AT = 100_000
"""Values of a scheduler that are looked at before the run."""


@dataclass(frozen=True, kw_only=True)
class TorchSchedule:
    """How to build a scheduler of torch; `torch_schedule` makes one."""

    build: Callable[[torch.optim.Optimizer], LRScheduler]
    every: Length

    def __str__(self) -> str:
        return f"torch_schedule({getattr(self.build, '__qualname__', 'it')}, every={self.every!r})"


def torch_schedule(
    build: Callable[[torch.optim.Optimizer], LRScheduler], *, every: Length = 1
) -> TorchSchedule:
    """Use a scheduler of torch, such as `lambda optimizer: StepLR(optimizer, 30)`.

    Args:
        build: builds the scheduler from an optimizer. It must not depend on anything that changes.
        every: interval at which it is stepped: 1 (optimizer step) or for example "1 epoch".
    """
    if not callable(build):
        raise ConfigError(
            f"torch_schedule got a {type(build).__name__}, which belongs to an optimizer already; "
            "give a function: torch_schedule(lambda optimizer: StepLR(optimizer, 30))."
        )
    require_length(every, where="torch_schedule(every=...)")
    return TorchSchedule(build=build, every=every)


class DrivenScheduler:
    """A scheduler of torch as a function of the step; moving on is cheap, going back is not."""

    def __init__(
        self, schedule: TorchSchedule, groups: Sequence[Mapping[str, Any]], span: Span
    ) -> None:
        """Build it once, so that what cannot work is refused before the run.

        Args:
            schedule: what the user gave.
            groups: the optimizer's parameter groups, with their own rates.
            span: how long the run is.

        Raises:
            ConfigError: it is no scheduler, or one that does not follow the step alone.
        """
        self._schedule = schedule
        self._groups = [{k: v for k, v in g.items() if k not in _NOT_SHARED} for g in groups]
        self._every = steps_of(schedule.every, span, where=str(schedule))
        self._scheduler, self._optimizer = self._start()
        self._done = 0
        self._num_values = max(1, -(-span.total_steps // self._every))
        _refuse_rates_as_factors(self._scheduler, self._num_values)

    def try_out(self) -> None:
        """Step it through the run once, so that one which is too short is refused now.

        Raises:
            ConfigError: the scheduler refuses a step.
        """
        self.values((min(self._num_values, _MOST_LOOKED_AT) - 1) * self._every)
        self.values(0)

    def values(self, step: int) -> list[dict[str, Any]]:
        """Return, for each group, what the scheduler has set before optimizer step `step`."""
        wanted = step // self._every
        if wanted < self._done:
            self._scheduler, self._optimizer = self._start()
            self._done = 0
        while self._done < wanted:
            self._optimizer.step()
            with warnings.catch_warnings():
                # Its own record of the former rates and epochs is of no use here.
                warnings.simplefilter("ignore")
                self._step()
            self._done += 1
        changed = []
        for group, own in zip(self._optimizer.param_groups, self._groups, strict=True):
            new = {k: group[k] for k in own if k != "lr" and group[k] != own[k]}
            changed.append({"lr": float(group["lr"]), **new})
        return changed

    def _step(self) -> None:
        try:
            self._scheduler.step()
        except ValueError as error:
            raise ConfigError(
                f"{self._schedule}: the scheduler refuses its step {self._done + 1}, and the run "
                f"needs {self._num_values - 1}: {error}"
            ) from error

    def _start(self) -> tuple[LRScheduler, torch.optim.Optimizer]:
        optimizer = _StandIn(self._groups)
        scheduler = self._schedule.build(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ConfigError(
                f"{self._schedule} builds a ReduceLROnPlateau, which follows a metric and not the "
                'step. Use plateau=ReduceOnPlateau("val/loss") of `strategies`, beside a schedule.'
            )
        if not isinstance(scheduler, LRScheduler) or scheduler.optimizer is not optimizer:
            raise ConfigError(
                f"{self._schedule} must return a scheduler of torch built on the optimizer that it "
                f"is given; it returned a {type(scheduler).__name__}."
            )
        return scheduler, optimizer


_NOT_SHARED = ("params", "param_names", "initial_lr")


class _StandIn(torch.optim.Optimizer):
    """Parameter groups with the real ones' values, whose parameter is never used."""

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        own = [
            {"params": [torch.nn.Parameter(torch.zeros(()))], **_copied(group)} for group in groups
        ]
        # Schedulers that cycle momentum ask the defaults which one there is.
        super().__init__(own, defaults=_copied(groups[0]))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing; a scheduler warns where it is stepped before its optimizer."""


def _copied(group: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in group.items()}


def _refuse_rates_as_factors(scheduler: LRScheduler, count: int) -> None:
    """Refuse a LambdaLR whose function returns an absolute rate, which torch takes for a factor.

    The signs: no factor is larger than the group's own rate, which is small; or the factor falls
    at once from far above to the group's own rate itself, as where a warm-up by factors ends and a
    cosine between two rates begins.

    Raises:
        ConfigError: it does.
    """
    if not isinstance(scheduler, LambdaLR):
        return
    for of_step, own in zip(scheduler.lr_lambdas, scheduler.base_lrs, strict=True):
        factors = [float(of_step(n)) for n in range(min(count, _MOST_LOOKED_AT))]
        base = float(own)
        if not 0 < base < 1 / _SUDDEN:
            continue
        falls = (
            n
            for n in range(1, len(factors))
            if abs(factors[n] - base) <= 0.01 * base and factors[n - 1] > _SUDDEN * factors[n]
        )
        where = 0 if 0 < max(factors) <= base else next(falls, None)
        if where is not None:
            raise ConfigError(
                f"the function of a LambdaLR returned {factors[where]:g} at its step {where}, and "
                f"the optimizer's rate is {base:g}: an absolute rate, it seems, and torch would "
                f"multiply the two to {factors[where] * base:g}. Return a factor, or use "
                "schedules.function, which tells the two apart."
            )
