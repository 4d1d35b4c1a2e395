"""What a report keeps of the records: exact where it is a number, bounded where it is a curve."""

import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from launcher.run_folder.records.summary import MOST_GROUPS, Point, RecordSummary, Series


def series_of(values: list[float]) -> Series:
    found = Series(Point(0, values[0]))
    for step, value in enumerate(values[1:], start=1):
        found.add(Point(step, value))
    return found


@pytest.mark.parametrize("count", [1, 2, MOST_GROUPS])
def test_a_short_curve_is_whole(count: int) -> None:
    values = [random.Random(1).random() for _ in range(count)]
    found = series_of(values)
    assert found.curve() == [Point(*pair) for pair in enumerate(values)]


@pytest.mark.parametrize("count", [MOST_GROUPS + 1, 3 * MOST_GROUPS + 7, 50_001])
def test_a_long_curve_keeps_its_peaks_its_order_and_its_ends(count: int) -> None:
    draw = random.Random(count)
    values = [draw.gauss(0, 1) for _ in range(count)]
    values[count // 3], values[count // 2] = 99.0, -99.0
    found = series_of(values)
    curve = found.curve()
    assert len(curve) <= 2 * MOST_GROUPS + 1
    assert [point.step for point in curve] == sorted({point.step for point in curve})
    assert {Point(count // 3, 99.0), Point(count // 2, -99.0)} <= set(curve)
    assert curve[-1] == found.last == Point(count - 1, values[-1])
    assert (found.lowest, found.highest) == (Point(count // 2, -99.0), Point(count // 3, 99.0))
    assert found.count == count
    assert all(values[point.step] == point.value for point in curve)


def test_the_first_of_equal_values_is_the_lowest_and_the_highest() -> None:
    found = series_of([1.0, 1.0, 1.0])
    assert found.lowest == found.highest == Point(0, 1.0)


def test_all_that_a_report_needs_is_summed_up() -> None:
    records: list[dict[str, Any]] = [
        {"step": 10, "attempt": 1, "time": 100.0, "loss": 2.0, "val/loss": 3.0},
        {"step": 20, "attempt": 1, "time": 90.0, "val/table": [[1.0]], "evaluation_s": 1.5},
        {"step": 15, "attempt": 2, "time": 120.0, "val/\x1bx": 1.0, "evaluation_s": 0.5},
        {"step": 25, "attempt": 2, "val/table": [[2.0, None]], "epoch": 3},
    ]
    found = RecordSummary(records)
    assert found.count == 4
    assert found.evaluating_s == 2.0
    assert found.metric_names() == ["val/loss", "val/\\x1bx"]
    assert set(found.series) == {"loss", "val/loss", "val/\\x1bx"}
    assert found.tables == {"val/table": (25, [[2.0, None]])}
    assert found.attempts == {1: (20, 100.0), 2: (25, 120.0)}
    assert RecordSummary().count == 0


def test_memory_does_not_grow_with_the_records() -> None:
    def records(count: int) -> Iterator[dict[str, Any]]:
        return ({"step": n, "attempt": 1, "time": float(n), "loss": n * 0.5} for n in range(count))

    def held(count: int) -> int:
        tracemalloc.start()
        kept = RecordSummary(records(count))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert kept.count == count
        return size

    assert held(40_000) < 1.2 * held(10_000)
