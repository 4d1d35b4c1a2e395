"""64 bits that follow from every bit of a model's weights, on any number of ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

from checkpointing import Fragment

from ..collectives.process_group import HostCommunicator
from ..collectives.replicas import INTEGERS
from ..parallel.catalogue import WEIGHT_KEYS
from ..parallel.strategy import Strategy

_BITS = 64
_CHUNK = 1 << 18
"""Elements that are widened to int64 at a time: the extra memory is a few times 2 MiB."""
_GAMMA, _FIRST, _SECOND = (
    number - (1 << _BITS)  # as int64 holds it
    for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""Of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)."""


def weights_digest(strategy: Strategy, communicator: HostCommunicator) -> str:
    """Return 16 hexadecimal digits for the parameters and buffers. Called on every rank.

    Every element is hashed with its name and its place, and the hashes are added modulo 2^64. How
    the elements are spread over the ranks does not matter, so the digest is the same under every
    strategy. It shows that two models differ; it is no protection against forgery.
    """
    fragments = strategy.fragments(weights_only=True)
    shares: list[Any] = communicator.all_gather(digest_of(fragments))
    return f"{sum(shares) % (1 << _BITS):016x}"


def digest_of(fragments: Iterable[Fragment]) -> int:
    """Return the sum, modulo 2^64, of the hashes of what this rank holds. No collective.

    There is one wait for an accelerator.
    """
    sums = [_hashed(f) for f in fragments if f.spec.key in WEIGHT_KEYS and f.start < f.end]
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for one in sums:
        by_device.setdefault(one.device, []).append(one)
    totals = (int(torch.stack(found).sum()) for found in by_device.values())
    return sum(totals) % (1 << _BITS)


def _hashed(fragment: Fragment) -> torch.Tensor:
    """Return the sum of the hashes of a fragment's elements, int64 and 0-dim, on its device."""
    flat = fragment.data.detach()
    bits = flat.view(INTEGERS[flat.element_size()])
    text = f"{fragment.spec.name}/{fragment.spec.dtype}".encode()
    seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for begin in range(0, bits.numel(), _CHUNK):
        # A copy also where they are int64 already: it is changed in place.
        mixed = bits[begin : begin + _CHUNK].to(torch.int64, copy=True)
        first = fragment.start + begin
        places = torch.arange(first, first + mixed.numel(), device=bits.device)
        mixed += places.mul_(_GAMMA).add_(seed)
        total += _mix(mixed).sum()
    return total


def _mix(mixed: torch.Tensor) -> torch.Tensor:
    """Let every bit of each int64 depend on all of its bits; in place."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        mixed ^= _shifted(mixed, shift)
        mixed *= factor
    mixed ^= _shifted(mixed, 31)
    return mixed


def _shifted(numbers: torch.Tensor, by: int) -> torch.Tensor:
    """Return the numbers shifted to the right as if they had no sign."""
    return (numbers >> by) & ((1 << (_BITS - by)) - 1)
