"""The state of random numbers as bytes, and back."""

import random

import numpy as np
import torch

from launcher.bridges.random_states import (
    random_states,
    read_random_states,
    write_random_states,
)


def draws() -> list[float]:
    return [random.gauss(0, 1), float(np.random.standard_normal()), float(torch.randn(()))]


def test_the_same_numbers_follow() -> None:
    draws()  # leaves half of a pair of normal numbers in each generator
    states, restore = read_random_states(), random_states()
    first = draws()
    write_random_states(states)
    assert draws() == first
    restore()
    assert draws() == first
