"""Micro-batches of a stream that keeps its position itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from ...errors import ConfigError, DataNotReady
from ..reading.samples import Collate
from ..reading.stacking import Unstackable, stack
from ..seeding import seed_streams
from .own_position import OwnPosition


class OwnBatches(Iterator[Any]):
    """The micro-batches of a stream that keeps its position, without end."""

    def __init__(
        self,
        position: OwnPosition,
        *,
        micro_batch: int,
        collate: Collate | None,
        stops: Callable[[], bool],
        has_notice: Callable[[], bool] = lambda: False,
    ) -> None:
        """Read in this process.

        Args:
            position: the stream.
            micro_batch: samples in a batch, of a stream that gives samples.
            collate: makes a batch of them; None: torch's way.
            stops: asked before each sample; True: DataNotReady.
            has_notice: whether the run is about to leave, so that data which cannot be read need
                not fail it.
        """
        self._position = position
        self._micro_batch = 1 if isinstance(position.stream, DataLoader) else micro_batch
        self._makes_batches = isinstance(position.stream, DataLoader)
        self._collate = collate
        self._stops = stops
        self._has_notice = has_notice
        self._samples: list[Any] = []
        self._is_begun = False

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            DataNotReady: next() can be called again, and continues with the samples read so far.
            ConfigError: the samples cannot be stacked.
        """
        if not self._is_begun:
            self._position.before_batch()
            self._is_begun = True
        while len(self._samples) < self._micro_batch:
            if self._stops():
                raise DataNotReady
            self._samples.append(self._next_sample())
        samples, self._samples, self._is_begun = self._samples, [], False
        if self._makes_batches:
            return samples[0]
        if self._collate is not None:
            seed_streams(self._position.draws("collate"))
            return self._collate(samples)
        batch = stack(samples, range(len(samples)))
        if isinstance(batch, Unstackable):
            raise ConfigError(batch.sentence)
        return batch

    def _next_sample(self) -> Any:
        try:
            return self._position.next_sample()
        except ConfigError:
            raise
        except Exception as error:
            if self._has_notice():
                raise DataNotReady from error
            raise

    def close(self) -> None:
        """Do nothing: the stream may be read on; see `OwnPosition.close`."""
