"""The state of a process's global generators of random numbers, to be taken back to."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import numpy as np
import torch

from ..training.own_loop.random_state import random_state, set_random_state


def random_states() -> Callable[[], None]:
    """Return a function that puts the generators back to where they are now."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = random_state(device)
    return lambda: set_random_state(state, device)


def read_random_states() -> torch.Tensor:
    """Return the states as bytes: a uint8 tensor of one dimension, to be sent and stored."""
    name, keys, *rest = np.random.get_state(legacy=True)
    states_read = {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "cpu": torch.random.get_rng_state().tolist(),
        "gpu": torch.cuda.get_rng_state().tolist() if torch.cuda.is_available() else None,
    }
    return torch.tensor(list(json.dumps(states_read).encode()), dtype=torch.uint8)


def write_random_states(states: torch.Tensor) -> None:
    """Put the generators to where `read_random_states` found them."""
    states_read = json.loads(bytes(states.tolist()))
    number, words, gauss = states_read["python"]
    random.setstate((number, tuple(words), gauss))
    name, keys, *rest = states_read["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.random.set_rng_state(torch.tensor(states_read["cpu"], dtype=torch.uint8))
    if states_read["gpu"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(states_read["gpu"], dtype=torch.uint8))
