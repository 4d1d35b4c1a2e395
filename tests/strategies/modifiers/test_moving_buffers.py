"""Buffers that a forward moves are put back where a step is given up."""

import torch
from torch import nn

from strategies.modifiers.moving_buffers import MovingBuffers


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("table", torch.arange(3.0), persistent=False)
        self.register_buffer("nothing", None)
        self.inner = nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return self.inner(x)


def test_what_moved_in_a_step_before_is_put_back() -> None:
    model = Counting()
    buffers = MovingBuffers(model)
    for _ in range(2):
        buffers.begin_step()
        model(torch.randn(4, 2))
        buffers.end_step()
    buffers.begin_step()
    model(torch.randn(4, 2))
    assert float(model.steps) == 3
    buffers.give_up()
    assert float(model.steps) == 2
    assert model.table.tolist() == [0.0, 1.0, 2.0]


def test_what_does_not_move_is_not_copied() -> None:
    model = Counting()
    buffers = MovingBuffers(model)
    for _ in range(3):
        buffers.begin_step()
        model(torch.randn(4, 2))
        copied = set(buffers._copies)
        buffers.end_step()
    assert copied == {".steps"}
