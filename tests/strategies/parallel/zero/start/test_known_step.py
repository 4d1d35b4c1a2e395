"""The numbers of the step that DeepSpeed has to take."""

from __future__ import annotations

import pytest
import torch

from strategies.parallel.zero.start.known_step import gradient, start, stepped, summed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [0, 1, 7, 4095])
def test_what_each_micro_batch_gives_is_exact_in_low_precision(
    dtype: torch.dtype, rank: int
) -> None:
    for tensor in (start(), gradient(0, rank), gradient(1, rank)):
        assert torch.equal(tensor.to(dtype).float(), tensor)


@pytest.mark.parametrize("world_size", [2, 3, 64])
def test_a_lost_rank_or_micro_batch_shows(world_size: int) -> None:
    total = summed(world_size)
    own = gradient(0, 0) + gradient(1, 0)
    last = torch.stack([gradient(1, rank) for rank in range(world_size)]).sum(0)
    for wrong in (own, own / world_size, last, total / world_size):
        assert not torch.allclose(wrong, total, rtol=1e-4)


def test_micro_batches_that_were_added_in_low_precision_show() -> None:
    assert not torch.allclose(summed(1).bfloat16().float(), summed(1), rtol=1e-4)


def test_the_step_is_that_of_torch() -> None:
    weight = torch.nn.Parameter(start())
    optimizer = torch.optim.SGD([weight], lr=2.0**-8)
    weight.grad = summed(4) / 4
    optimizer.step()
    assert torch.equal(weight.detach(), stepped(4))
