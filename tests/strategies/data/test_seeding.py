"""Random streams seeded once a micro-batch: the same draws as torch's own seeding, and cheap."""

import random

import numpy as np
import pytest
import torch

from strategies.data.seeding import seed_streams, seed_torch, seed_torch_here, stream_seed


def test_every_stream_is_seeded():
    def draw():
        return (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())

    seed_streams(stream_seed(0, 5, 2))
    first = draw()
    draw()
    seed_streams(stream_seed(0, 5, 2))
    assert draw() == first
    seed_streams(stream_seed(0, 5, 3))
    assert draw() != first


def test_torch_draws_as_after_manual_seed():
    torch.manual_seed(1234)
    expected = torch.rand(5)
    seed_torch(1234)
    assert torch.equal(torch.rand(5), expected)


def test_nothing_is_put_aside_for_an_accelerator_that_is_not_used():
    if torch.cuda.is_initialized():
        pytest.skip("an accelerator is in use")
    waiting = len(torch.cuda._queued_calls)
    for value in range(10):
        seed_streams(value)
    assert len(torch.cuda._queued_calls) == waiting


def test_an_accelerator_in_use_is_seeded(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch, "manual_seed", seeded.append)
    seed_torch(7)
    assert seeded == [7]
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda value: seeded.append(("device", value)))
    seed_torch_here(9)
    assert torch.initial_seed() == 9
    assert seeded.pop() == ("device", 9)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    seed_torch(8)
    seed_torch_here(8)
    assert seeded == [7]
