"""The rest of an epoch of a torch DataLoader, without reading what was read before."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import BatchSampler, DataLoader


class Skipping:
    """Stands in a loader for its sampler of batches, whose next pass it begins further on.

    Only numbers of samples are drawn for what is left out. It stays for the loader's life, since
    persistent workers keep their sampler; all else it answers as the sampler that it stands for.
    """

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._batches = 0
        self._samples = 0
        self._begun: Iterator[Any] | None = None

    def skip(self, *, batches: int = 0, samples: int = 0) -> None:
        """Let the next pass leave so much out.

        Args:
            batches: what the sampler yields.
            samples: of a plain BatchSampler, which puts the rest into batches anew.
        """
        self._batches, self._samples = batches, samples

    def prime(self) -> None:
        """Draw what is left out now, so that random numbers can be set afterwards."""
        if self._begun is None:
            self._begun = self._rest()

    def __iter__(self) -> Iterator[Any]:
        self.prime()
        begun, self._begun = self._begun, None
        assert begun is not None
        yield from begun

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def _rest(self) -> Iterator[Any]:
        batches, samples = self._batches, self._samples
        self._batches = self._samples = 0
        if not samples:
            whole: Iterator[Any] = iter(self._sampler)
            for _ in islice(whole, batches):
                pass
            return whole
        indices = iter(self._sampler.sampler)
        for _ in islice(indices, samples):
            pass
        return _in_batches(indices, self._sampler.batch_size, drop_last=self._sampler.drop_last)


def _in_batches(indices: Iterator[int], size: int, *, drop_last: bool) -> Iterator[list[int]]:
    while len(batch := list(islice(indices, size))) == size:
        yield batch
    if batch and not drop_last:
        yield batch


def skipping(loader: DataLoader[Any]) -> Skipping:
    """Return what stands in the loader for its sampler; put there the first time."""
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    there: Any = getattr(loader, name)
    if isinstance(there, Skipping):
        return there
    vars(loader)[name] = new = Skipping(there)  # the loader refuses to have it set
    return new


def regroups(loader: DataLoader[Any]) -> bool:
    """Whether its samples are put into batches in torch's plain way."""
    there: Any = loader.batch_sampler
    return type(getattr(there, "_sampler", there)) is BatchSampler
