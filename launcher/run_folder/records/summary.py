"""What a report needs of metrics.jsonl, read in one pass and held in bounded memory; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...terminal.printable import printable, printable_values
from ..lines.fields import RATE_OF
from ..metric_text import is_table

MOST_GROUPS = 2000
"""A curve has at most twice as many points: more than a picture has columns."""
DRAWN = frozenset(("loss", "lr", "grad_norm", "samples_per_s"))
"""Curves of the training, beside the rates of several optimizers; what was measured has a "/" in
its name."""


class Point(NamedTuple):
    """One number of a record."""

    step: int
    value: float


class Series:
    """One entry of the records over the steps: exact extremes, and a curve that keeps its peaks.

    Of each group of successive records the lowest and the highest are kept. When there are too many
    groups, each two become one.
    """

    def __init__(self, first: Point) -> None:
        self.count = 1
        self.lowest = self.highest = self.last = first
        self._groups: list[tuple[Point, Point]] = [(first, first)]
        self._group_size = 1
        self._num_in_last = 1

    def add(self, point: Point) -> None:
        """Count a later record in."""
        self.count += 1
        self.last = point
        if point.value < self.lowest.value:
            self.lowest = point
        if point.value > self.highest.value:
            self.highest = point
        if self._num_in_last < self._group_size:
            self._groups[-1] = _joined(self._groups[-1], (point, point))
            self._num_in_last += 1
            return
        if len(self._groups) == MOST_GROUPS:
            pairs = zip(self._groups[::2], self._groups[1::2], strict=True)
            self._groups = [_joined(*pair) for pair in pairs]
            self._group_size *= 2
        self._groups.append((point, point))
        self._num_in_last = 1

    def state(self) -> dict[str, Any]:
        """Return it as JSON, from which `from_state` makes one that continues alike."""
        return {
            "count": self.count,
            "points": [*self.lowest, *self.highest, *self.last],
            "groups": [number for group in self._groups for point in group for number in point],
            "group_size": self._group_size,
            "num_in_last": self._num_in_last,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Series:
        """Return the series whose state it is.

        Raises:
            KeyError, TypeError, ValueError: it is no series' state.
        """
        lowest, highest, last = _points(state["points"])
        groups = _points(state["groups"])
        found = cls(groups[0])
        found.count, found.lowest, found.highest, found.last = state["count"], lowest, highest, last
        found._groups = list(zip(groups[::2], groups[1::2], strict=True))
        found._group_size, found._num_in_last = state["group_size"], state["num_in_last"]
        return found

    def curve(self) -> list[Point]:
        """Return what is to be drawn: all points, or the peaks of each group and the last one."""
        points: list[Point] = []
        for group in self._groups:
            points += sorted(set(group), key=lambda point: point.step)
        return points if points[-1] == self.last else [*points, self.last]


class RecordSummary:
    """What the records of one run come to."""

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        """Read the records, oldest first; names as `printable` shows them."""
        self.count = 0
        self.evaluating_s = 0.0
        self.series: dict[str, Series] = {}
        """By name, in order of appearance."""
        self.tables: dict[str, tuple[int, Any]] = {}
        """By name the newest of each table that was measured, with its step."""
        self.attempts: dict[object, tuple[int, float]] = {}
        """By attempt the highest step that was recorded, and the newest time."""
        self._shown: dict[str, str | None] = {}
        self.add(records)

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Count later records in, oldest first."""
        for record in records:
            self._add(record)

    def state(self) -> dict[str, Any]:
        """Return it as JSON, from which `from_state` makes one that continues alike."""
        return {
            "count": self.count,
            "evaluating_s": self.evaluating_s,
            "series": {name: series.state() for name, series in self.series.items()},
            "tables": self.tables,
            "attempts": [[attempt, *of] for attempt, of in self.attempts.items()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RecordSummary:
        """Return the summary whose state it is.

        Raises:
            KeyError, TypeError, ValueError: it is no summary's state.
        """
        found = cls()
        found.count, found.evaluating_s = state["count"], state["evaluating_s"]
        found.series = {name: Series.from_state(each) for name, each in state["series"].items()}
        found.tables = {name: (step, table) for name, (step, table) in state["tables"].items()}
        found.attempts = {attempt: (step, time) for attempt, step, time in state["attempts"]}
        return found

    def metric_names(self) -> list[str]:
        """Return the names of the numbers that were measured, in order of appearance."""
        return [name for name in self.series if "/" in name]

    def rate_names(self) -> list[str]:
        """Return the names of the rates: of each optimizer where there are several."""
        several = [name for name in self.series if name.startswith(RATE_OF) and "/" not in name]
        return several or ["lr"]

    def _add(self, record: Mapping[str, Any]) -> None:
        self.count += 1
        step = record["step"]
        self.evaluating_s += record.get("evaluation_s", 0.0)
        attempt, time = record.get("attempt"), record.get("time", float("-inf"))
        before = self.attempts.get(attempt, (step, time))
        self.attempts[attempt] = (max(step, before[0]), max(time, before[1]))
        for name, value in record.items():
            if name not in self._shown:
                self._shown[name] = printable(name) if _is_curve(name) else None
            if (shown := self._shown[name]) is None:
                continue
            if is_table(value):
                self.tables[shown] = (step, printable_values(value))
            elif (series := self.series.get(shown)) is None:
                self.series[shown] = Series(Point(step, value))
            else:
                series.add(Point(step, value))


def _is_curve(name: str) -> bool:
    return "/" in name or name in DRAWN or name.startswith(RATE_OF)


def _points(numbers: list[Any]) -> list[Point]:
    return [Point(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]


def _joined(a: tuple[Point, Point], b: tuple[Point, Point]) -> tuple[Point, Point]:
    lowest = b[0] if b[0].value < a[0].value else a[0]
    return lowest, b[1] if b[1].value > a[1].value else a[1]
