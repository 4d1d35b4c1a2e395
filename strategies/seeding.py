"""Random numbers as a function of (seed, step, micro-batch), never of the rank."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch

AFTER_LAST_MICRO_BATCH = -1
"""The stream for code of the user's between the last micro-batch of a step and the next step."""
UPDATE = -2
"""The stream for an optimizer that draws random numbers in its step."""
SEEDING_RULE = "blake2b(seed, step, micro_batch), v1"


def stream_seed(seed: int, step: int, micro_batch: int) -> int:
    """Return a 63-bit seed for one canonical micro-batch of one optimizer step."""
    text = f"{seed}/{step}/{micro_batch}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def seed_streams(value: int) -> None:
    """Seed torch (every device), numpy and `random`, so that user code draws the same anywhere."""
    seed_torch(value)
    np.random.seed(value & 0xFFFFFFFF)
    random.seed(value)


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
    return bool(getattr(accelerator, "is_initialized", lambda: True)())
