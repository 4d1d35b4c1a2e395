"""Learning-rate schedules as pure functions of the optimizer step.

    warmup("5 epochs").then(cosine(floor=0.1))
    warmup_stable_decay(warmup=100, decay="20%")
    constant().then(linear(), at="80%")

A schedule's pieces are *factors* on each parameter group's own rate. A function of the user's must
say which it returns, `Factor(0.5)` or `Rate(1e-3)`: a bare number is refused, so an absolute rate
cannot be taken for a factor. Nothing here has a state or imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from ..errors import ConfigError
from .length import Length, Span, require_length, steps_of
from .schedule import Factor, Piece, Rate, Schedule

__all__ = [
    *("Factor", "Rate", "Schedule", "Span"),
    *("constant", "cosine", "cosine_restarts", "exponential", "function", "inverse_sqrt"),
    *("linear", "multi_step", "polynomial", "step", "warmup", "warmup_stable_decay"),
]


def _piece(
    text: str,
    curve: Callable[[int, int], float],
    *,
    length: Length | None = None,
    steps_before_end: Length | None = None,
) -> Schedule:
    """Return a schedule of one piece whose curve is a plain factor."""
    return Schedule(
        (
            Piece(
                text=text,
                curve=lambda step, steps, span: Factor(curve(step, steps)),
                length=length,
                steps_before_end=steps_before_end,
            ),
        )
    )


def _progress(step: int, steps: int) -> float:
    """Return 0 at a piece's first step and 1 at its last."""
    return min(1.0, step / max(1, steps - 1))


def _require_factor(value: float, name: str, *, where: str, above_zero: bool = False) -> None:
    if not (value > 0.0 if above_zero else value >= 0.0) or not value <= 1.0:
        raise ConfigError(
            f"{where}({name}={value}) must be {'above 0' if above_zero else 'between 0'} and "
            f"{'at most ' if above_zero else ''}1: it is a factor on the optimizer's rate."
        )


def constant(factor: float = 1.0) -> Schedule:
    """Stay at `factor` times the base rate."""
    _require_factor(factor, "factor", where="constant")
    return _piece(f"constant({factor:g})" if factor != 1 else "constant()", lambda s, n: factor)


def warmup(
    length: Length,
    shape: Literal["linear", "exponential"] = "linear",
    *,
    start: float | None = None,
) -> Schedule:
    """Rise to the base rate over `length`; the last step of it has the whole rate.

    Args:
        length: such as 100, "5 epochs" or "3%".
        shape: linear: by equal differences. exponential: by equal ratios.
        start: the factor from which it rises, reached one step before the first; default 0, and
            0.01 for an exponential one, which must be above 0.
    """
    require_length(length, where="warmup")
    if shape not in ("linear", "exponential"):
        raise ConfigError(f'warmup(shape="{shape}"): choose from exponential, linear.')
    low = (0.0 if shape == "linear" else 0.01) if start is None else start
    _require_factor(low, "start", where="warmup", above_zero=shape == "exponential")

    def factor(step: int, steps: int) -> float:
        done = min(1.0, (step + 1) / steps)
        return low + (1.0 - low) * done if shape == "linear" else low ** (1.0 - done)

    more = (", 'exponential'" if shape != "linear" else "") + (
        f", start={start:g}" if start is not None else ""
    )
    return _piece(f"warmup({length!r}{more})", factor, length=length)


def cosine(floor: float = 0.0, *, start: float = 1.0) -> Schedule:
    """Fall from `start` to `floor` on half a cosine (Loshchilov and Hutter, SGDR, 2017)."""
    return _decay("cosine", lambda p: 0.5 * (1.0 + math.cos(math.pi * p)), floor, start)


def linear(floor: float = 0.0, *, start: float = 1.0) -> Schedule:
    """Fall from `start` to `floor` in a straight line."""
    return _decay("linear", lambda p: 1.0 - p, floor, start)


def polynomial(power: float, floor: float = 0.0, *, start: float = 1.0) -> Schedule:
    """Fall from `start` to `floor` as (1 - progress) ** power."""
    if not 0 < power < math.inf:
        raise ConfigError(f"polynomial(power={power}) must be above 0.")
    return _decay("polynomial", lambda p: (1.0 - p) ** power, floor, start, f"{power:g}")


def _decay(
    name: str, shape: Callable[[float], float], floor: float, start: float, first: str = ""
) -> Schedule:
    _require_factor(floor, "floor", where=name)
    _require_factor(start, "start", where=name)
    given = [
        *([first] if first else []),
        *([f"floor={floor:g}"] if floor else []),
        *([f"start={start:g}"] if start != 1 else []),
    ]
    return _piece(
        f"{name}({', '.join(given)})",
        lambda step, steps: floor + (start - floor) * shape(_progress(step, steps)),
    )


def cosine_restarts(period: Length, *, growth: float = 1.0, floor: float = 0.0) -> Schedule:
    """Fall from 1 to `floor` on half a cosine, again and again (SGDR's warm restarts).

    Args:
        period: the first fall.
        growth: each fall is so many times as long as the one before.
        floor: the factor at the last step of each.
    """
    require_length(period, where="cosine_restarts")
    _require_factor(floor, "floor", where="cosine_restarts")
    if not 1.0 <= growth < math.inf:
        raise ConfigError(f"cosine_restarts(growth={growth}) must be at least 1.")
    text = f"cosine_restarts({period!r}"
    text += (f", growth={growth:g}" if growth != 1 else "") + (
        f", floor={floor:g}" if floor else ""
    )

    def curve(step: int, steps: int, span: Span) -> Factor:
        first = steps_of(period, span, where="cosine_restarts")
        began, length, count = 0, first, 0
        while step >= began + length:
            count += 1
            began, length = began + length, max(1, round(first * growth**count))
        progress = _progress(step - began, length)
        return Factor(floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))

    return Schedule((Piece(text=f"{text})", curve=curve),))


def step(every: Length, gamma: float = 0.1) -> Schedule:
    """Multiply the rate by `gamma` after every `every`."""
    require_length(every, where="step")
    _require_factor(gamma, "gamma", where="step", above_zero=True)

    def curve(step: int, steps: int, span: Span) -> Factor:
        return Factor(gamma ** (step // steps_of(every, span, where="step")))

    return Schedule((Piece(text=f"step({every!r}, {gamma:g})", curve=curve),))


def multi_step(milestones: Sequence[Length], gamma: float = 0.1) -> Schedule:
    """Multiply the rate by `gamma` at each milestone, counted from the start of the piece."""
    if not milestones or isinstance(milestones, str):
        raise ConfigError(f'multi_step({milestones!r}) needs a list, such as [300, "60%"].')
    given = [require_length(milestone, where="multi_step") for milestone in milestones]
    _require_factor(gamma, "gamma", where="multi_step", above_zero=True)
    text = f"multi_step({given}, {gamma:g})"

    def places(span: Span) -> list[int]:
        return [steps_of(milestone, span, where="multi_step") for milestone in given]

    def check(steps: int, span: Span) -> None:
        for earlier, later in pairwise(places(span)):
            if later <= earlier:
                raise ConfigError(
                    f"{text}: the milestones are the steps {places(span)} and must rise."
                )

    def curve(step: int, steps: int, span: Span) -> Factor:
        return Factor(gamma ** sum(place <= step for place in places(span)))

    return Schedule((Piece(text=text, curve=curve, check=check),))


def exponential(gamma: float, every: Length = 1) -> Schedule:
    """Fall smoothly, by the factor `gamma` in every `every`."""
    require_length(every, where="exponential")
    _require_factor(gamma, "gamma", where="exponential", above_zero=True)
    text = f"exponential({gamma:g}" + (f", every={every!r})" if every != 1 else ")")

    def curve(step: int, steps: int, span: Span) -> Factor:
        return Factor(gamma ** (step / steps_of(every, span, where="exponential")))

    return Schedule((Piece(text=text, curve=curve),))


def inverse_sqrt(timescale: Length) -> Schedule:
    """Fall as sqrt(T / (T + step)), T the timescale; after a warm-up of T this is the schedule of
    Vaswani et al. (2017).
    """
    require_length(timescale, where="inverse_sqrt")

    def curve(step: int, steps: int, span: Span) -> Factor:
        scale = steps_of(timescale, span, where="inverse_sqrt")
        return Factor(math.sqrt(scale / (scale + step)))

    return Schedule((Piece(text=f"inverse_sqrt({timescale!r})", curve=curve),))


_DECAY_SHAPES: dict[str, Callable[[float], float]] = {
    "1-sqrt": lambda p: 1.0 - math.sqrt(p),
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
    "linear": lambda p: 1.0 - p,
}


def warmup_stable_decay(
    *, warmup: Length, decay: Length, floor: float = 0.0, shape: str = "linear"
) -> Schedule:
    """Rise, stay, and fall in the last `decay` of the run (Hu et al., MiniCPM, 2024).

    Args:
        warmup: how long the rate rises.
        decay: how long it falls, to the end of the run.
        floor: the factor at the last step.
        shape: of the fall: "linear", "cosine", or "1-sqrt" (Haegele et al., 2024).
    """
    require_length(decay, where="warmup_stable_decay")
    _require_factor(floor, "floor", where="warmup_stable_decay")
    if shape not in _DECAY_SHAPES:
        raise ConfigError(
            f'warmup_stable_decay(shape="{shape}"): choose from {", ".join(_DECAY_SHAPES)}.'
        )
    fall = _DECAY_SHAPES[shape]
    last = _piece(
        f"{shape} decay in the last {decay!r}",
        lambda step, steps: floor + (1.0 - floor) * fall(_progress(step, steps)),
        steps_before_end=decay,
    )
    return _warmup(warmup).then(constant()).then(last)


_warmup = warmup
"""`warmup_stable_decay` has an argument of that name."""


def function(of_step: Callable[[int, Span], Factor | Rate]) -> Schedule:
    """Use a function of (0-based step inside the piece, the run), which must be pure.

    It returns `Factor(...)`, a multiple of the optimizer's rate, or `Rate(...)`, an absolute one.
    """
    if not callable(of_step):
        raise ConfigError(f"function({of_step!r}) needs a function of (step, span).")
    name = getattr(of_step, "__qualname__", type(of_step).__qualname__)
    return Schedule(
        (Piece(text=f"function({name})", curve=lambda step, steps, span: of_step(step, span)),)
    )
