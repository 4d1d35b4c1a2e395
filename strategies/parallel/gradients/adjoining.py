"""Tensors that adjoin in the host's memory, taken as one: fewer calls for the same elements.

An accelerator takes many tensors in one call, and a norm in float64 there needs room for the
largest of them, so those stay as they are.

Engines keep gradients side by side in one buffer (DDP its buckets, fully_shard a block's), and hand
them out parameter by parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch


def joined(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return flat views of the same memory, one for each stretch without a gap.

    Args:
        tensors: of any shapes; none overlaps another. What is not contiguous, or not on the host,
            is returned as it is.

    Returns:
        Each element once; a view of a whole stretch has its dtype, on its device.
    """
    others: list[torch.Tensor] = []
    stretches: dict[tuple[int, torch.dtype], list[torch.Tensor]] = {}
    for tensor in tensors:
        if tensor.is_cpu and tensor.is_contiguous():
            key = tensor.untyped_storage().data_ptr(), tensor.dtype
            stretches.setdefault(key, []).append(tensor)
        else:
            others.append(tensor)
    for beside in stretches.values():
        others += _runs(sorted(beside, key=torch.Tensor.storage_offset))
    return others


def _runs(beside: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the stretches of tensors that are in one storage, sorted by where they begin."""
    first, end = beside[0], -1
    start = first.storage_offset()
    for tensor in beside:
        offset = tensor.storage_offset()
        if end not in (-1, offset):
            yield first.as_strided((end - start,), (1,), start)
            first, start = tensor, offset
        end = int(offset) + tensor.numel()
    yield first.as_strided((end - start,), (1,), start)
