"""Small tensors on a GPU, such as the step counts of a fused optimizer, come to the host together.

A copy of each would be waited for one by one, twice for every parameter in a save.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.utils._pytree import tree_iter

INLINE_ELEMENTS = 16
"""A tensor of more is stored as a tensor, if it can be stored at all."""
_copies: dict[int, torch.Tensor] = {}
"""By id(), while `copied_together` is in force."""


@contextmanager
def copied_together(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[None]:
    """Have `on_host` know, within, what optimizers keep in small tensors. No collective.

    There is one wait for each device; no step may be taken within.
    """
    kept = [(vars(one), one.state, one.param_groups) for one in optimizers]
    small = {id(t): t for t in tree_iter(kept) if isinstance(t, torch.Tensor) and _is_small(t)}
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for tensor in small.values():
        by_device.setdefault(tensor.device, []).append(tensor)
    for tensors in by_device.values():
        # The widest first: then each begins at a multiple of its own width.
        tensors.sort(key=torch.Tensor.element_size, reverse=True)
        raw = [t.detach().reshape(-1).view(torch.uint8) for t in tensors]
        parts = torch.split(torch.cat(raw).cpu(), [len(one) for one in raw])
        _copies.update((id(t), p.view(t.dtype)) for t, p in zip(tensors, parts, strict=True))
    try:
        yield
    finally:
        _copies.clear()


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's values, shape (n,), on the host."""
    found = _copies.get(id(tensor))
    return tensor.detach().reshape(-1).cpu() if found is None else found


def _is_small(tensor: torch.Tensor) -> bool:
    is_plain = type(tensor) is torch.Tensor and tensor.layout == torch.strided
    return is_plain and tensor.device.type != "cpu" and 0 < tensor.numel() <= INLINE_ELEMENTS
