"""Random numbers as a function of (seed, step, micro-batch) or of the sample, never of the rank."""

# Note: random numbers belong to the data, not to the process
#
# A generator that runs on from draw to draw gives numbers that depend on who has drawn how often
# before: on the number of ranks, on loader workers, on where a run was interrupted. Its state would
# have to be saved for each rank, and could not be divided when the ranks are another number.
#
# Here nothing runs on. Before a micro-batch is computed, torch, numpy and `random` are seeded with
# a hash of (seed, step, micro-batch): the number of the canonical micro-batch, which does not
# depend on the rank that computes it. Every rank that computes it draws the same dropout mask. A
# resume has nothing to restore, since the step's number says it all.
#
# The same for what is drawn elsewhere: each purpose has a stream of its own, so that another draw
# in one does not move the numbers of another. What a data set draws belongs to the sample, by
# (seed, epoch, index): it is drawn in whichever process reads it, and a sample is the same whatever
# is read with it. The order of samples does not come from a generator at all, but from a
# permutation that can be evaluated at any position (permutation.py).
#
# The hash is part of what a checkpoint means: SEEDING_RULE names it in each of them.

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

AFTER_LAST_MICRO_BATCH = -1
"""The stream for code of the user's after the last micro-batch of a step."""
BEFORE_FIRST_MICRO_BATCH = -3
"""The stream for code of the user's in the body of a step, ahead of its micro-batches."""
UPDATE = -2
"""The stream for an optimizer that draws random numbers in its step."""
SEEDING_RULE = (
    "model: blake2b(seed, step, micro_batch); data: blake2b(seed, sample, epoch, index), v2"
)


def seed_of(*key: object) -> int:
    """Return a 63-bit seed, a function of all parts of `key`."""
    text = "/".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def seeds_of(stream: str, indices: Sequence[int]) -> list[int]:
    """Return `seed_of(stream, index)` for each index; the common part is hashed once."""
    common = hashlib.blake2b(f"{stream}/".encode(), digest_size=8)
    seeds = []
    for index in indices:
        one = common.copy()
        one.update(b"%d" % index)
        seeds.append(int.from_bytes(one.digest(), "little") >> 1)
    return seeds


def script_seed(seed: int) -> int:
    """Return the seed for what the script's main draws before anything else is seeded."""
    return seed_of(seed, "script")


def stream_seed(seed: int, step: int, micro_batch: int) -> int:
    """Return the seed for what the model draws in one canonical micro-batch of one step."""
    return seed_of(seed, step, micro_batch)


def training_samples(seed: int, epoch: int) -> str:
    """Return the name of the random numbers that reading the samples of an epoch draws.

    By epoch and index, and not by step: they are those of a sample, whatever is read with it.
    """
    return f"{seed}/sample/{epoch}"


def evaluated_samples(seed: int, name: str) -> str:
    """Return the same for an evaluation: equal each time, so that only the model differs."""
    return f"{seed}/evaluated/{name}"


def seed_streams(value: int) -> None:
    """Seed torch (every device), numpy and `random`, so that user code draws the same anywhere."""
    seed_torch(value)
    np.random.seed(value & 0xFFFFFFFF)
    random.seed(value)


def measuring_seed(seed: int, name: str, micro_batch: int) -> int:
    """Return the seed for what is drawn while a micro-batch of an evaluation is measured."""
    return seed_of(seed, "measured", name, micro_batch)


@contextmanager
def kept_streams() -> Iterator[None]:
    """Put the streams of this process back at the end as they are now: about 0.1 ms."""
    accelerator = torch.accelerator.current_accelerator()
    devices: Any = None if accelerator is None else torch.get_device_module(accelerator)
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_device = devices.get_rng_state() if _is_in_use(devices) else None
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])
        if on_device is not None:
            devices.set_rng_state(on_device)


def seed_for_sample(value: int) -> None:
    """Do as `seed_streams`; of accelerators seed the device in use alone, which is cheap."""
    seed_torch_here(value)
    np.random.seed(value & 0xFFFFFFFF)
    random.seed(value)


def seed_torch_here(value: int) -> None:
    """Seed torch's generators of the CPU and of the device in use."""
    torch.default_generator.manual_seed(value)
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None:
        devices = torch.get_device_module(accelerator)
        if _is_in_use(devices):
            devices.manual_seed(value)


def seed_torch(value: int) -> None:
    """Do as torch.manual_seed, without its cost where no accelerator is in use.

    That puts calls with their stack traces aside for the day when an accelerator is first used:
    about a millisecond each time, and on a CPU the list only grows.
    """
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or not _is_in_use(torch.get_device_module(accelerator)):
        torch.default_generator.manual_seed(value)
    else:
        torch.manual_seed(value)


def _is_in_use(accelerator: Any) -> bool:
    return accelerator is not None and bool(getattr(accelerator, "is_initialized", lambda: True)())
