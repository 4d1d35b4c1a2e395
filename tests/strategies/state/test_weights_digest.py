"""The digest follows from every bit and its place, and not from how the weights are spread."""

import hashlib
import itertools

import pytest
import torch

from checkpointing import Fragment, TensorSpec
from strategies.parallel.catalogue import FROZEN, MASTER
from strategies.state.weights_digest import digest_of

DTYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def spec(numel: int, name: str = "w", dtype: str = "F32", key: str = MASTER) -> TensorSpec:
    return TensorSpec(fqn=name, key=key, shape=(numel,), dtype=dtype)


def cut(values: torch.Tensor, *places: int, name: str = "w", dtype: str = "F32") -> list[Fragment]:
    edges = [0, *places, values.numel()]
    return [
        Fragment(spec=spec(values.numel(), name, dtype), start=a, end=b, data=values[a:b].clone())
        for a, b in itertools.pairwise(edges)
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_does_not_depend_on_the_cut(dtype: str) -> None:
    bits = torch.randint(0, 2, (8 * 4096,), dtype=torch.uint8)
    values = bits.view(DTYPES[dtype])[:601]
    fragments = cut(values, dtype=dtype)
    whole = digest_of(fragments)
    kept = torch.cat([one.data for one in fragments])
    assert torch.equal(kept.view(torch.uint8), values.contiguous().view(torch.uint8))
    for places in ((1,), (300,), (7, 7, 8, 600)):
        shares = [digest_of([one]) for one in cut(values, *places, dtype=dtype)]
        assert sum(shares) % (1 << 64) == whole


def test_more_elements_than_are_widened_at_once() -> None:
    values = torch.randn((1 << 18) + 5)
    assert digest_of(cut(values)) == digest_of(cut(values, (1 << 18) - 3))


def test_a_bit_a_place_and_a_name_matter() -> None:
    values = torch.arange(100.0)
    found = {digest_of(cut(values))}
    for bit in range(32):
        changed = values.clone()
        changed.view(torch.int32)[41] ^= 1 << bit if bit < 31 else -(1 << 31)
        found.add(digest_of(cut(changed)))
    swapped = values.clone()
    swapped[[3, 4]] = swapped[[4, 3]]
    found |= {digest_of(cut(swapped)), digest_of(cut(values, name="v"))}
    assert len(found) == 35
    zero = torch.zeros(3)
    assert digest_of(cut(zero)) != digest_of(cut(-zero))


def test_last_bits_that_cancel_in_a_plain_sum_do_not_cancel() -> None:
    values = torch.ones(10_000)
    found = set()
    for begin in range(0, 9_000, 9):
        changed = values.clone()
        changed.view(torch.int32)[begin : begin + 4] += torch.tensor([1, -1, -1, 1])
        found.add(digest_of(cut(changed)))
    assert len(found | {digest_of(cut(values))}) == 1001


def test_only_weights_count() -> None:
    values = torch.ones(4)
    state = Fragment(spec=spec(4, key="exp_avg"), start=0, end=4, data=values)
    frozen = Fragment(spec=spec(4, key=FROZEN), start=0, end=4, data=values)
    assert digest_of([state]) == 0
    assert digest_of([frozen]) != 0


def test_the_numbers_are_those_of_splitmix64() -> None:
    """Computed with Python's integers."""
    mask = (1 << 64) - 1
    values = torch.tensor([1.5, -2.0, float("nan")])
    (fragment,) = cut(values)
    text = f"{fragment.spec.name}/F32".encode()
    seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    total = 0
    for place, bits in enumerate(values.view(torch.int32).tolist()):
        x = (bits + place * 0x9E3779B97F4A7C15 + seed) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        total += x ^ (x >> 31)
    assert digest_of([fragment]) == total & mask
