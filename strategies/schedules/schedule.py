"""A learning-rate schedule: curves that follow each other, as a pure function of the step.

The curves themselves are in `schedules`. Nothing here has a state or imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..errors import ConfigError
from .length import Length, Span, require_length, steps_of


@dataclass(frozen=True)
class Factor:
    """A factor on a parameter group's own learning rate, between 0 and 1."""

    value: float

    def on(self, base: float) -> float:
        """Return the rate of a group whose own rate is `base`."""
        return self.value * base


@dataclass(frozen=True)
class Rate:
    """An absolute learning rate."""

    value: float

    def on(self, base: float) -> float:
        """Return the rate; the group's own rate does not matter."""
        return self.value


Curve: TypeAlias = "Callable[[int, int, Span], Factor | Rate]"
"""(0-based step inside the piece, steps of the piece, the run) -> what the rate is."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One curve of a schedule, and where it lies."""

    text: str
    """As the user writes it."""
    curve: Curve
    length: Length | None = None
    """None: until the next piece begins, or the run ends."""
    at: Length | None = None
    """Where it begins; None: where the piece before it ends."""
    steps_before_end: Length | None = None
    """Where it begins, counted from the end of the run."""
    check: Callable[[int, Span], None] | None = None
    """Refuses what can be seen only once the piece's length in steps is known."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A piece in a run of known length: it covers the steps [start, end)."""

    piece: Piece
    start: int
    end: int


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule: pieces without overlap or gap, from step 0."""

    pieces: tuple[Piece, ...]

    def then(self, following: Schedule, *, at: Length | None = None) -> Schedule:
        """Return this schedule, followed by another.

        Args:
            following: the next schedule.
            at: where it begins, from the start of the run. Required after a piece without an end;
                after a piece with an end it must be the same place.

        Raises:
            ConfigError: this schedule has no end, and `at` is not given.
        """
        if not isinstance(following, Schedule):
            raise ConfigError(f"{self}.then({following!r}) needs a schedule, such as cosine().")
        first, *rest = following.pieces
        if at is not None:
            require_length(at, where="then(at=...)")
        elif self.pieces[-1].length is None and first.steps_before_end is None:
            raise ConfigError(
                f"nothing can follow {self.pieces[-1].text}, which lasts to the end of the run. "
                'Say where the next piece begins, as in .then(..., at="80%"), or how long this one '
                "is with .lasting(...)."
            )
        placed = replace(first, at=at) if at is not None else first
        return Schedule((*self.pieces, placed, *rest))

    def lasting(self, length: Length) -> Schedule:
        """Return this schedule with its last piece as long as `length`.

        Raises:
            ConfigError: the piece has a length already.
        """
        last = self.pieces[-1]
        if last.length is not None:
            raise ConfigError(f"{last.text} has a length already: {last.length}.")
        require_length(length, where=f"{last.text}.lasting")
        return Schedule((*self.pieces[:-1], replace(last, length=length)))

    def __call__(self, step: int, span: Span | int) -> float:
        """Return the factor at 0-based optimizer step `step` of a run.

        Raises:
            ConfigError: the schedule gives absolute rates there, or what `rate` refuses.
        """
        value = self.value(step, span)
        if isinstance(value, Rate):
            raise ConfigError(
                f"{self} gives the absolute rate {value.value} at step {step}, and no factor."
            )
        return value.value

    def rate(self, step: int, span: Span | int, base: float) -> float:
        """Return the learning rate at 0-based optimizer step `step` of a run.

        Args:
            step: of the optimizer.
            span: how long the run is; a number is its steps.
            base: the parameter group's own rate.

        Raises:
            ConfigError: a factor is not between 0 and 1, a rate is negative, or pieces overlap.
        """
        return self.value(step, span).on(base)

    def value(self, step: int, span: Span | int) -> Factor | Rate:
        """Return what the schedule says at a step; see `rate`."""
        span = Span(total_steps=span) if isinstance(span, int) else span
        # Past its end the last piece that has begun holds its last value.
        *_, placed = (p for p in self.placed(span) if p.start <= step or p.start == 0)
        steps = placed.end - placed.start
        local = min(step - placed.start, steps - 1) if steps > 0 else 0
        value = placed.piece.curve(local, steps, span)
        _require_sane(value, placed.piece, step)
        return value

    def placed(self, span: Span) -> Iterator[Placed]:
        """Yield the pieces with the steps that they cover in a run.

        Raises:
            ConfigError: two overlap, or leave a gap.
        """
        starts = list(self._starts(span))
        for number, (piece, start) in enumerate(zip(self.pieces, starts, strict=True)):
            is_last = number + 1 == len(self.pieces)
            own_end = None if piece.length is None else start + _steps(piece, piece.length, span)
            end = max(span.total_steps, start) if is_last else starts[number + 1]
            if not is_last and own_end is not None and own_end != end:
                what = "overlaps" if own_end > end else "leaves a gap before"
                raise ConfigError(
                    f"{piece.text} covers the steps {start} to {own_end} and {what} "
                    f"{self.pieces[number + 1].text}, which begins at step {end}. Let pieces "
                    "follow each other with .then(...) alone, or mend the lengths."
                )
            if not is_last and end < start:
                raise ConfigError(
                    f"{piece.text} begins at step {start} and would overlap "
                    f"{self.pieces[number + 1].text}, which begins at step {end}."
                )
            if piece.check is not None:
                piece.check((end if own_end is None else own_end) - start, span)
            yield Placed(piece=piece, start=start, end=end if own_end is None else own_end)

    def notes(self, span: Span) -> list[str]:
        """Return a sentence for each piece that the run is too short for.

        Raises:
            ConfigError: as `placed`.
        """
        total = span.total_steps
        found = [p for p in self.placed(span) if p.start >= total or p.end > total]
        return [
            f"the schedule's {p.piece.text} covers the steps {p.start} to {p.end}, "
            f"and the run has only {total}"
            for p in found
        ]

    def __str__(self) -> str:
        text = ""
        for piece in self.pieces:
            own = piece.text
            if not text:
                text = own
            elif piece.at is None:
                text += f".then({own})"
            else:
                text += f".then({own}, at={piece.at!r})"
        return text

    def _starts(self, span: Span) -> Iterator[int]:
        end = 0
        for piece in self.pieces:
            start = end
            if piece.at is not None:
                start = _steps(piece, piece.at, span)
            elif piece.steps_before_end is not None:
                start = span.total_steps - _steps(piece, piece.steps_before_end, span)
            yield start
            end = start if piece.length is None else start + _steps(piece, piece.length, span)


def _steps(piece: Piece, length: Length, span: Span) -> int:
    return steps_of(length, span, where=piece.text)


def _require_sane(value: object, piece: Piece, step: int) -> None:
    if isinstance(value, Rate):
        if not 0.0 <= value.value < math.inf:
            raise ConfigError(
                f"{piece.text} returned {value} at step {step}; it must be 0 or more."
            )
        return
    if not isinstance(value, Factor):
        raise ConfigError(
            f"{piece.text} returned the bare number {value!r} at step {step}. Say what it is: "
            "Factor(...) multiplies the optimizer's rate, Rate(...) replaces it."
        )
    if not 0.0 <= value.value <= 1.0:
        raise ConfigError(
            f"{piece.text} returned the factor {value.value!r} at step {step}; a factor between 0 "
            "and 1 is needed, which multiplies the optimizer's rate. Give the optimizer the "
            "highest rate."
        )
