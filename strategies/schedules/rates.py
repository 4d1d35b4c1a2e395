"""The learning rates of an optimizer's parameter groups at each step of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import ConfigError
from .length import Span
from .schedule import Schedule
from .torch_schedule import DrivenScheduler, TorchSchedule

RateRule: TypeAlias = "Schedule | Sequence[Schedule] | Mapping[str, Schedule] | TorchSchedule"
"""One schedule for all parameter groups, one for each in their order, or one for each by the
group's "name"; or a scheduler of torch."""


class Rates:
    """What to put into the parameter groups before a step. A function of the step alone."""

    def __init__(self, rule: RateRule, groups: Sequence[Mapping[str, Any]], span: Span) -> None:
        """Place the schedule in a run, before anything is trained.

        Args:
            rule: what the user asked for.
            groups: the optimizer's parameter groups, with the rates that the script gave them.
            span: how long the run is.

        Raises:
            ConfigError: pieces overlap, groups and schedules do not match, or a value is refused.
        """
        self._span = span
        self._bases = [float(group["lr"]) for group in groups]
        self._driven: DrivenScheduler | None = None
        self._schedules: list[Schedule] = []
        if isinstance(rule, TorchSchedule):
            self._driven = DrivenScheduler(rule, groups, span)
            self.text = str(rule)
        else:
            self._schedules = _one_a_group(rule, groups)
            self.text = "; ".join(dict.fromkeys(str(s) for s in self._schedules))
        self.notes = list(
            dict.fromkeys(note for schedule in self._schedules for note in schedule.notes(span))
        )
        """Sentences about pieces that the run is too short for."""
        if self._driven is not None:
            self._driven.try_out()
        for step in (0, span.total_steps // 2, max(0, span.total_steps - 1)):
            for schedule, base in zip(self._schedules, self._bases, strict=False):
                schedule.rate(step, span, base)

    def at(self, step: int, factor: float) -> list[dict[str, Any]]:
        """Return, for each group, the hyper-parameters of 0-based optimizer step `step`.

        Args:
            step: of the optimizer.
            factor: on top of the schedule, from `ReduceOnPlateau`.
        """
        if self._driven is not None:
            return [{**one, "lr": one["lr"] * factor} for one in self._driven.values(step)]
        return [
            {"lr": schedule.rate(step, self._span, base) * factor}
            for schedule, base in zip(self._schedules, self._bases, strict=True)
        ]


def _one_a_group(rule: object, groups: Sequence[Mapping[str, Any]]) -> list[Schedule]:
    if isinstance(rule, Schedule):
        return [rule] * len(groups)
    if isinstance(rule, Mapping):
        names = [group.get("name") for group in groups]
        if set(names) != set(rule) or len(names) != len(rule):
            raise ConfigError(
                f"schedules are given for the parameter groups {sorted(map(str, rule))}, and the "
                f'optimizer\'s groups are named {names}. Give each group a "name" of its own, and '
                "each name a schedule."
            )
        return [_require_schedule(rule[name]) for name in names]
    if isinstance(rule, list | tuple):
        if len(rule) != len(groups):
            raise ConfigError(
                f"{len(rule)} schedules are given, and the optimizer has {len(groups)} parameter "
                "groups. Give one schedule for all, or one for each in their order."
            )
        return [_require_schedule(one) for one in rule]
    return [_require_schedule(rule)]


def _require_schedule(value: object) -> Schedule:
    if isinstance(value, Schedule):
        return value
    hint = (
        "A scheduler of torch is given as torch_schedule(lambda optimizer: ...)."
        if hasattr(value, "get_last_lr")
        else "A function of your own is given as schedules.function(...), and returns Factor(...) "
        "or Rate(...)."
    )
    raise ConfigError(f"schedule={value!r} is no schedule. {hint}")
