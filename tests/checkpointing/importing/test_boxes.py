"""Boxes are a whole tensor, each element once, or are refused: against counting every element."""

import itertools
import math
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from checkpointing import DamagedCheckpointError
from checkpointing.importing.boxes import require_cover


@dataclass(frozen=True)
class Part:
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


def covers(shape, boxes):
    try:
        require_cover(Path("file"), "w", shape, boxes)
    except DamagedCheckpointError:
        return False
    return True


def counted(shape, boxes):
    """The same by brute force."""
    held = [0] * math.prod(shape)
    for box in boxes:
        spans = [range(o, o + n) for o, n in zip(box.offsets, box.sizes, strict=True)]
        for place in itertools.product(*spans):
            index = 0
            for at, dim in zip(place, shape, strict=True):
                index = index * dim + at
            held[index] += 1
    return all(n == 1 for n in held)


def cut(rng, shape, offsets=None):
    """Cut a tensor into boxes at random."""
    offsets = offsets or (0,) * len(shape)
    wide = [d for d, n in enumerate(shape) if n > 1]
    if not wide or rng.random() < 0.3:
        return [Part(offsets, shape)]
    d = rng.choice(wide)
    at = rng.randrange(1, shape[d])
    left = tuple(at if i == d else n for i, n in enumerate(shape))
    right = tuple(n - at if i == d else n for i, n in enumerate(shape))
    moved = tuple(o + at if i == d else o for i, o in enumerate(offsets))
    return cut(rng, left, offsets) + cut(rng, right, moved)


@pytest.mark.parametrize("seed", range(60))
def test_against_counting(seed):
    rng = random.Random(seed)
    shape = tuple(rng.randrange(1, 6) for _ in range(rng.randrange(4)))
    boxes = cut(rng, shape)
    rng.shuffle(boxes)
    assert covers(shape, boxes)
    assert counted(shape, boxes)
    if len(boxes) > 1:  # one more, one less, one moved
        spoiled = [*boxes, boxes[0]], boxes[1:], [boxes[0], boxes[0], *boxes[2:]]
        for wrong in spoiled:
            assert covers(shape, wrong) == counted(shape, wrong)


@pytest.mark.parametrize(
    ("shape", "boxes", "message"),
    [
        ((4,), [((0,), (2,)), ((2,), (2,))], None),
        ((4,), [((0,), (2,)), ((2,), (2,)), ((1,), (0,))], None),
        ((), [((), ())], None),
        ((0, 3), [((0, 0), (0, 3))], None),
        ((0,), [], None),
        ((), [], "0 elements of 1"),
        ((), [((), ()), ((), ())], "overlap"),
        ((4,), [((0,), (3,)), ((2,), (1,))], "overlap"),
        ((4,), [((0,), (2,)), ((1,), (2,))], "overlap"),
        ((4,), [((0,), (2,)), ((3,), (1,))], "3 elements of 4"),
        ((4,), [((0,), (5,))], "outside"),
        ((4,), [((0, 0), (4, 1))], "outside"),
        # As many elements as there are, and one of them twice.
        ((2, 2), [((0, 0), (2, 1)), ((0, 0), (1, 2))], "overlap"),
        ((2,) * 9, [((n,) + (0,) * 8, (1,) * 9) for n in (0, 1)] * 256, "cut in 9 dimensions"),
    ],
)
def test_what_is_said(shape, boxes, message):
    parts = [Part(*box) for box in boxes]
    if message is None:
        require_cover(Path("file"), "w", shape, parts)
        return
    with pytest.raises(DamagedCheckpointError, match=message):
        require_cover(Path("file"), "w", shape, parts)
