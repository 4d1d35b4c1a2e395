"""Where tensors are, on a machine whose GPU is pretended; see two_places.py."""

from typing import Any

import torch
from pretended_cuda import SAID  # type: ignore[import-not-found]
from torch.multiprocessing import reductions

_WEAK: Any = reductions.StorageWeakRef


def key_of(tensor: torch.Tensor) -> int | None:
    """Return what is the same for all tensors over one memory; None: it has none."""
    tensor = getattr(tensor, "_local_tensor", tensor)
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


class KnownPlaces:
    """Of which storages it is known where they are."""

    def __init__(self) -> None:
        self._where: dict[int, tuple[Any, str]] = {}

    def of(self, tensor: torch.Tensor) -> str | None:
        """Return "cuda", "cpu", "pinned" or None: it is not known."""
        if SAID in vars(tensor):
            return str(vars(tensor)[SAID])
        key = key_of(tensor)
        found = self._where.get(key) if key is not None else None
        if found is None:
            return None
        if found[0].expired():
            self._where.pop(key, None)  # type: ignore[arg-type]
            return None
        return found[1]

    def put(self, tensor: torch.Tensor, where: str) -> None:
        """Note where a tensor's memory is."""
        local = getattr(tensor, "_local_tensor", tensor)
        key = key_of(local)
        if key is not None:
            self._where[key] = _WEAK(local.untyped_storage()), where
