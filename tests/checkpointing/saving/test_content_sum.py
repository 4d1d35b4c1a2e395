"""The sums by which a changed tensor is known; those made on a device are computed on the host."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from checkpointing.saving import content_sum
from checkpointing.saving.content_sum import Sum, begin_sum, sample_bytes

Total = Callable[[torch.Tensor], int]


@pytest.fixture(params=["host", "device"])
def total(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Total:
    if request.param == "host":
        return lambda data: begin_sum(data).finish()
    monkeypatch.setattr(content_sum, "_WORDS", 64)  # several pieces
    return lambda data: int(content_sum._sum_on_device(data.view(torch.uint8)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
@pytest.mark.parametrize("offset", [0, 1])
def test_any_changed_byte_changes_the_sum(total: Total, dtype: torch.dtype, offset: int) -> None:
    data = (torch.arange(701) % 2).to(dtype)[offset:]
    raw = data.view(torch.uint8)
    before = total(data)
    assert total(data) == before
    for at in range(0, len(raw), 3):
        raw[at] ^= 1
        assert total(data) != before
        raw[at] ^= 1
    assert total(data) == before


def test_pieces_cannot_change_places(total: Total) -> None:
    data = torch.arange(256, dtype=torch.int32)
    assert total(data.roll(64)) != total(data)
    assert total(torch.zeros(64)) == total(torch.zeros(64)) != total(torch.ones(64))


def test_a_sample_sees_every_kind_of_byte() -> None:
    """Also of bfloat16, whose two bytes a stride of two would see one of."""
    tensors = [torch.ones(n, dtype=torch.bfloat16) for n in (1, 5, 64, 1000, 4096)]
    before = sample_bytes(tensors)
    for tensor in tensors:
        tensor.mul_(1.01)  # the lowest bits alone
    assert all(old != new for old, new in zip(before, sample_bytes(tensors), strict=True))
    assert max(map(len, before)) < 200
    assert sample_bytes([]) == []
    assert sample_bytes([torch.ones(3), torch.ones(0)]) == [sample_bytes([torch.ones(3)])[0], b""]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("size", [0, 1, 7, 63, 64, 65, 4099])
def test_a_sample_is_of_the_same_bytes_on_host_and_device(dtype: torch.dtype, size: int) -> None:
    data = torch.arange(size + 1).to(dtype)[1:]
    assert sample_bytes([data]) == content_sum._samples([data])
    gradient = torch.ones(size + 1)[1:].requires_grad_()
    assert sample_bytes([gradient]) == content_sum._samples([gradient])


def test_a_thread_waits_on_its_tensors_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the first one it would make a context there, for each rank of the host."""
    calls: list[object] = []
    device = torch.device("cuda", 3)
    event = SimpleNamespace(record=lambda _: None, synchronize=lambda: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    under_way: Any = SimpleNamespace(is_cuda=True, device=device, item=lambda: 7)
    assert Sum(torch.zeros(1), under_way).finish() == 7
    assert calls == [device, "synchronize"]
