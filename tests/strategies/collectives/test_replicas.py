"""Whether ranks hold the same weights: digests of bits, whose turn it is, and who differs."""

import math
from collections.abc import Callable

import pytest
import torch

from strategies.collectives.replicas import (
    EVERY_STEPS,
    SLICE_BYTES,
    Replicas,
    digests_of,
    first_difference,
    folded,
    place_weighted,
    turns_of,
)


def digest(tensor: torch.Tensor) -> int:
    """As on the host."""
    return digests_of([tensor])[0]


def digest_on_device(tensor: torch.Tensor) -> int:
    """As on an accelerator."""
    return folded(int(place_weighted(tensor.reshape(-1))))


DIGESTS = [digest, digest_on_device]


@pytest.mark.parametrize("of", DIGESTS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.complex128]
)
def test_a_digest_is_of_bits_and_places(
    of: Callable[[torch.Tensor], int], dtype: torch.dtype
) -> None:
    tensor = (torch.randn(300, 7, generator=torch.Generator().manual_seed(1)) * 9).to(dtype)
    assert of(tensor) == of(tensor.clone())
    swapped = tensor.clone()
    swapped[0, 0], swapped[200, 3] = tensor[200, 3], tensor[0, 0]
    assert of(swapped) != of(tensor)
    changed = tensor.clone()
    changed[299, 6] += 1
    assert of(changed) != of(tensor)
    assert 0 <= of(tensor) < 2**32


@pytest.mark.parametrize("of", DIGESTS)
def test_nan_and_the_sign_of_zero_are_seen(of: Callable[[torch.Tensor], int]) -> None:
    assert of(torch.tensor([math.nan, 1.0])) == of(torch.tensor([math.nan, 1.0]))
    assert of(torch.tensor([0.0, 1.0])) != of(torch.tensor([-0.0, 1.0]))
    # Two zeros of another sign do not make up for each other.
    assert of(torch.tensor([-0.0, 0.0, 0.0])) != of(torch.tensor([0.0, -0.0, 0.0]))
    assert of(torch.tensor([-0.0, -0.0])) != of(torch.tensor([0.0, 0.0]))


def test_what_has_no_elements_or_no_dimension_has_a_digest() -> None:
    assert digest(torch.empty(0, 3)) == 0
    assert digest(torch.tensor(1.0)) == digest(torch.ones(1))
    assert digest(torch.ones(3, 3).t()[1:]) == digest(torch.ones(2, 3))


def test_a_long_tensor_is_summed_in_parts() -> None:
    tensor = torch.zeros((1 << 20) + 5)
    before = digest_on_device(tensor)
    tensor[-1] = 1.0
    assert digest_on_device(tensor) != before


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ([(3, 4), (0, 4), (600_001, 4), (1, 8), (11, 2)], [2, 1, 3]),
        ([(1, 4)] * 70, [32, 32, 6]),
        ([(SLICE_BYTES // 4, 4), (1, 4)], [1, 1]),
        ([(5, 8)], [1]),
    ],
)
def test_every_element_has_its_turn_once(sizes: list[tuple[int, int]], lengths: list[int]) -> None:
    turns = turns_of(sizes)
    assert [len(turn) for turn in turns] == lengths
    seen = sorted(piece for turn in turns for piece in turn)
    for number, (numel, _) in enumerate(sizes):
        ends = [0, *(end for one, _, end in seen if one == number)]
        assert [begin for one, begin, _ in seen if one == number] == ends[:-1]
        assert ends[-1] == numel
    for turn in turns:
        assert sum((end - begin) * sizes[one][1] for one, begin, end in turn) <= SLICE_BYTES


def test_the_turns_go_around() -> None:
    replicas = Replicas([(str(n), torch.full((1,), float(n))) for n in range(40)])
    found = [replicas.digest_after(turn * EVERY_STEPS) for turn in range(4)]
    assert found[0] != found[1]
    assert found[:2] == found[2:]
    replicas.named[35][1].add_(1)
    assert replicas.digest_after(0) == found[0]
    assert replicas.digest_after(EVERY_STEPS) != found[1]


def test_a_part_is_compared_after_some_steps_only() -> None:
    replicas = Replicas([("a", torch.arange(5.0))])
    assert replicas.digest_after(EVERY_STEPS) == replicas.digest_after(2 * EVERY_STEPS) != 0
    assert replicas.digest_after(EVERY_STEPS + 1) == 0
    assert 0 < replicas.digest_after(EVERY_STEPS) < 2**20
    assert Replicas().digest_after(EVERY_STEPS) == 0
    assert Replicas(replicas.named, group=1).digest_after(EVERY_STEPS) == 0


@pytest.mark.parametrize(
    ("groups", "digests", "expected"),
    [
        ([None, None], [[1, 2], [1, 2]], None),
        ([None, None], [[1, 2], [1, 3]], (1, 0, 1)),
        ([None, None, None], [[9, 2], [1, 2], [1, 2]], (0, 1, 0)),
        ([None, None, None], [[1, 2], [1, 2], [1, 5]], (2, 0, 1)),
        ([None, None, None, None], [[1], [2], [2], [1]], (1, 0, 0)),
        ([0, 1, 0, 1], [[1, 2], [7, 8], [1, 2], [7, 8]], None),
        ([0, 1, 0, 1], [[1, 2], [7, 8], [1, 2], [7, 9]], (3, 1, 1)),
        ([None, None], [[1, 2], [1]], (1, 0, 1)),
        ([], [], None),
    ],
)
def test_the_first_that_differs(
    groups: list[int | None], digests: list[list[int]], expected: tuple[int, int, int] | None
) -> None:
    assert first_difference(groups, digests) == expected


def test_buffers_are_held_as_they_are_then() -> None:
    buffers: dict[str, torch.Tensor | None] = {"table": torch.zeros(2), "none": None}
    replicas = Replicas([("a", torch.ones(2))], buffers=lambda: list(buffers.items()))
    before = replicas.digest_after(EVERY_STEPS), replicas.summary()
    assert [name for name, _ in replicas.held()] == ["a", "table", "none"]
    buffers["table"] = torch.ones(2)
    assert replicas.digest_after(EVERY_STEPS) != before[0]
    assert replicas.summary() != before[1]
