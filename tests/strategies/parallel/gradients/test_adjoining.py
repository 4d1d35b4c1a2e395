import torch

from strategies.parallel.gradients.adjoining import joined


def spans(tensors: list[torch.Tensor]) -> list[tuple[int, int]]:
    return sorted((t.storage_offset(), t.numel()) for t in tensors)


def test_what_adjoins_becomes_one_whatever_the_order() -> None:
    buffer = torch.arange(24.0)
    first, second, third = buffer[:6].view(2, 3), buffer[6:10], buffer[10:24].view(7, 2)
    (whole,) = joined([third, first, second])
    assert torch.equal(whole, buffer)
    whole.mul_(2)
    assert torch.equal(first, 2 * torch.arange(6.0).view(2, 3))


def test_gaps_and_other_memory_stay_apart() -> None:
    buffer, other = torch.arange(20.0), torch.arange(3.0)
    found = joined([buffer[0:4], other, buffer[4:8], buffer[9:12]])
    assert spans(found) == [(0, 3), (0, 8), (9, 3)]


def test_tensors_of_their_own_stay_as_many() -> None:
    tensors = [torch.randn(4, 2), torch.randn(()), torch.randn(0)]
    assert sorted(t.numel() for t in joined(tensors)) == [0, 1, 8]
    assert joined([]) == []


def test_what_is_not_contiguous_is_left_as_it_is() -> None:
    buffer = torch.arange(12.0)
    turned = buffer[:6].view(2, 3).t()
    found = joined([turned, buffer[6:]])
    assert any(t is turned for t in found)
    assert sum(t.numel() for t in found) == 12


def test_views_of_other_dtypes_stay_apart() -> None:
    buffer = torch.zeros(8)
    assert len(joined([buffer[:4], buffer[4:].view(torch.int32)])) == 2


def test_empty_pieces_add_nothing() -> None:
    buffer = torch.arange(6.0)
    found = joined([buffer[:3], buffer[3:3], buffer[3:]])
    assert spans([t for t in found if t.numel()]) == [(0, 6)]


def test_what_is_not_on_the_host_is_left_as_it_is() -> None:
    buffer = torch.zeros(8, device="meta")
    halves = [buffer[:4], buffer[4:]]
    found = joined(halves)
    assert len(found) == 2
    assert all(one is half for one, half in zip(found, halves, strict=True))
