"""The random numbers of one process, as something that a checkpoint can hold."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device, generators: Sequence[torch.Generator] = ()) -> Any:
    """Return the state of Python's, NumPy's and torch's streams, and of these generators.

    Args:
        device: of this rank; a GPU has a stream of its own.
        generators: the script's, such as a loader's.
    """
    version, words, gauss = random.getstate()
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {
        "python": [version, np.array(words, dtype=np.uint32), gauss],
        "numpy": list(np.random.get_state()),
        "torch": torch.get_rng_state(),
        "gpu": on_gpu,
        "generators": [one.get_state() for one in generators],
    }


def set_random_state(
    state: Any, device: torch.device, generators: Sequence[torch.Generator] = ()
) -> None:
    """Put back what `random_state` returned, on a device of the same kind."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(int(word) for word in words), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["gpu"] is not None:
        torch.cuda.set_rng_state(state["gpu"], device)
    for one, saved in zip(generators, state["generators"], strict=False):
        one.set_state(saved)
