"""The most memory that tensors made in a stretch of code hold at the same time."""

from __future__ import annotations

import weakref

import torch


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
