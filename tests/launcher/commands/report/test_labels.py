import itertools
import random

import pytest

from launcher.commands.report.labels import MOST_ROWS, place
from launcher.run_folder.history import AttemptRecord


def attempt(number: int, step: int, strategy: str = "ddp", ranks: int = 2) -> AttemptRecord:
    return AttemptRecord(
        number=number,
        began_s=0.0,
        start_s=0.0,
        step=step,
        strategy=strategy,
        world_size=ranks,
        precision="fp32",
        device="cpu",
        lost_steps=0,
        lost_s=0.0,
        end_step=step,
        last_sign_s=0.0,
    )


def width(text: str) -> float:
    return 0.01 * len(text)


def starts(*kinds: tuple[int, str, int]) -> list[AttemptRecord]:
    return [attempt(n, *kind) for n, kind in enumerate(kinds, 1)]


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([], []),
        (starts((0, "ddp", 1)), [("1: ddp, 1 rank", 0.0, 0)]),
        (
            starts((0, "ddp", 2), (50, "fsdp", 3)),
            [("1: ddp, 2 ranks", 0.0, 0), ("2: fsdp, 3 ranks", 0.5, 0)],
        ),
        # Too close for one row.
        (
            starts((0, "ddp", 2), (5, "fsdp", 3), (50, "ddp", 2)),
            [
                ("1: ddp, 2 ranks", 0.0, 0),
                ("2: fsdp, 3 ranks", 0.05, 1),
                ("3: ddp, 2 ranks", 0.5, 0),
            ],
        ),
        # As before, and close: together. Far: on its own.
        (
            starts((0, "ddp", 2), (5, "ddp", 2), (60, "ddp", 2)),
            [("1-2: ddp, 2 ranks", 0.0, 0), ("3: ddp, 2 ranks", 0.6, 0)],
        ),
        # Never over the right edge.
        (
            starts((0, "ddp", 2), (98, "zero2", 1)),
            [("1: ddp, 2 ranks", 0.0, 0), ("2: zero2, 1 rank", 0.84, 0)],
        ),
    ],
)
def test_where_they_stand(
    attempts: list[AttemptRecord], expected: list[tuple[str, float, int]]
) -> None:
    found = [(one.text, one.left, one.row) for one in place(attempts, 100, width)]
    assert found == [(text, pytest.approx(left), row) for text, left, row in expected]


@pytest.mark.parametrize("count", [2, 7, 30, 200])
def test_every_start_is_in_one_label_and_none_lies_upon_another(count: int) -> None:
    source = random.Random(count)
    steps = sorted(source.randrange(1000) for _ in range(count))
    kinds = [(step, source.choice(["ddp", "fsdp", "zero2"]), source.randrange(4)) for step in steps]
    labels = place(starts(*kinds), 1000, width)
    numbers = [n for label in labels for n in range(label.first, label.last + 1)]
    assert numbers == list(range(1, count + 1))
    assert all(label.text.startswith(f"{label.first}") for label in labels)
    assert max(label.row for label in labels) < MOST_ROWS
    for one, other in itertools.combinations(labels, 2):
        if one.row == other.row:
            assert one.left + width(one.text) <= other.left + 1e-9
            assert other.left >= 0
            assert other.left + width(other.text) <= 1 + 1e-9


def test_where_rows_do_not_suffice_neighbours_share_a_name() -> None:
    labels = place(starts(*((n, ("ddp", "fsdp")[n % 2], 2) for n in range(40))), 100, width)
    assert max(label.row for label in labels) < MOST_ROWS
    assert labels[0].text.startswith("1-")
    assert labels[0].text.endswith(": ddp, fsdp")
