"""The state of a process's global generators of random numbers, to be taken back to."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch


def random_states() -> Callable[[], None]:
    """Return a function that puts the generators back to where they are now."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    of_cpu = torch.random.get_rng_state()
    of_gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore() -> None:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.random.set_rng_state(of_cpu)
        if of_gpu is not None:
            torch.cuda.set_rng_state(of_gpu)

    return restore
