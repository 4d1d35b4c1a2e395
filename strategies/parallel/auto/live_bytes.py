"""The most memory that tensors made in a stretch of code hold at the same time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class LiveBytes:
    """Counts storages from when they are made until they are freed."""

    def __init__(self) -> None:
        self._live: dict[int, int] = {}
        self.peak_bytes = 0
        """The most that they held together."""

    def follow(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        """Count a storage, unless it is known or among the `_cdata` of those that were given."""
        key = storage._cdata
        if key in given or key in self._live:
            return
        self._live[key] = storage.nbytes()
        weakref.finalize(storage, self._live.pop, key, None)
        self.peak_bytes = max(self.peak_bytes, sum(self._live.values()))


class FollowingMode(TorchDispatchMode):
    """Follows tensors that are made within it; which of them count, a subclass decides."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = LiveBytes()

    def follow(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        counts: Callable[[torch.Tensor], bool],
    ) -> Any:
        """Carry out one operation; count the tensors of its result that it has made itself."""
        given = {t.untyped_storage()._cdata for t in tensors_in((args, kwargs))}
        result = func(*args, **kwargs)
        for tensor in filter(counts, tensors_in(result)):
            self.live.follow(tensor.untyped_storage(), given)
        return result


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """Return the tensors of nested containers."""
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]
