"""Data sets without a length that can be opened at any position.

Their only state is a position, so a resume seeks and replays nothing, on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

from torch.utils.data import IterableDataset

from ...errors import ConfigError
from ..reading.loading import MapDataset
from .own_position import KeepsPosition, keeps_position

WITHOUT_END = 2**62
"""Length of a stream, as far as positions are concerned."""


class SeekableStream(Protocol):
    """A stream that yields its samples from a given position on."""

    def seek(self, position: int, /) -> None:
        """Let the next `iter()` begin with sample number `position`, from 0."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


TrainingData: TypeAlias = MapDataset | SeekableStream | KeepsPosition


class StreamSamples:
    """A stream read by index: it seeks only where the next sample is not the one asked for."""

    def __init__(self, stream: SeekableStream) -> None:
        self._stream = stream
        self._iterator: Iterator[Any] | None = None
        self._position = 0

    def __len__(self) -> int:
        return WITHOUT_END

    def __getitem__(self, index: int, /) -> Any:
        if self._iterator is None or index != self._position:
            self._stream.seek(index)
            self._iterator, self._position = iter(self._stream), index
        try:
            sample = next(self._iterator)
        except StopIteration:
            raise ConfigError(
                f"the stream {type(self._stream).__name__} has no sample {index}, and the run's "
                "steps need it. Ask for fewer steps, or begin again inside seek and __iter__."
            ) from None
        self._position = index + 1
        return sample


class UnreadSamples:
    """Stands for the samples of a stream that keeps its position: they are not read by index."""

    def __init__(self, stream: KeepsPosition) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return WITHOUT_END

    def __getitem__(self, index: int, /) -> Any:
        raise ConfigError(
            f"{type(self.stream).__name__} keeps its position itself, and is not read to measure"
        )


def is_stream(data: object) -> bool:
    """Whether `data` is read in its own order, and not by index."""
    return can_seek(data) or has_own_position(data)


def can_seek(data: object) -> bool:
    """Whether `data` is read from any position on."""
    return callable(getattr(data, "seek", None)) and hasattr(data, "__iter__")


def has_own_position(data: object) -> bool:
    """Whether `data` can only be put back where it was, and is not read by index either."""
    return not (can_seek(data) or _is_map_style(data)) and keeps_position(data)


def _is_map_style(data: object) -> bool:
    by_index = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    return by_index and not isinstance(data, IterableDataset)


def samples_of(data: Any) -> MapDataset:
    """Return training data as samples by index.

    Raises:
        ConfigError: it has neither a length and samples by index, nor a position to seek.
    """
    if can_seek(data):
        return StreamSamples(data)
    if has_own_position(data):
        return UnreadSamples(data)
    if _is_map_style(data):
        found: MapDataset = data
        return found
    missing = [name for name in ("__len__", "__getitem__", "seek") if not hasattr(data, name)]
    raise ConfigError(
        f"train is a {type(data).__name__} without {', '.join(missing)}: a run could not resume "
        "where it was. Give it a length and samples by index (__len__, __getitem__), or, for a "
        "stream, seek(position) so that __iter__ begins with that sample; or state_dict() and "
        "load_state_dict(state), as datasets and torchdata have it."
    )
