"""Random numbers as a function of (seed, step, micro-batch), never of the rank."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

AFTER_LAST_MICRO_BATCH = -1
"""The stream for code of the user's between the last micro-batch of a step and the next step."""
SEEDING_RULE = "blake2b(seed, step, micro_batch), v1"


def stream_seed(seed: int, step: int, micro_batch: int) -> int:
    """Return a 63-bit seed for one canonical micro-batch of one optimizer step."""
    text = f"{seed}/{step}/{micro_batch}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def seed_streams(value: int) -> None:
    """Seed torch (every device), numpy and `random`, so that user code draws the same anywhere."""
    torch.manual_seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    random.seed(value)
