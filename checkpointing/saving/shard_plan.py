"""Which bytes of a rank's fragments go where in a shard. Touches no data, and needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING

from ..errors import SaveFailedError
from ..format.shard_header import Entry, data_offsets, encode_header
from ..format.tensor_spec import TensorSpec
from .shard_report import spell_rows

if TYPE_CHECKING:
    from ..format.fragment import Fragment


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Which bytes go where in a shard."""

    header: bytes
    fragments: tuple[Fragment, ...]
    offsets: tuple[int, ...]
    sizes_bytes: tuple[int, ...]
    size_bytes: int
    """Of the file."""
    rows: str
    """What a rank reports of them, see `spell_rows`."""


def plan_shard(fragments: Iterable[Fragment], metadata: Mapping[str, str]) -> ShardPlan:
    """Lay out fragments in a file. Pure; touches no data.

    Args:
        fragments: In any order; empty ones are left out.
        metadata: For the header.

    Raises:
        SaveFailedError: If a fragment is given twice.
    """
    return Layouts().plan(fragments, metadata)


class Layouts:
    """Lays out the fragments of save after save, which mostly differ in nothing but their values.

    Then the layout of the one before is taken again; no fragment is kept.
    """

    def __init__(self) -> None:
        self._places: list[tuple[TensorSpec, int, int]] = []
        self._metadata: dict[str, str] = {}
        self._layout: ShardPlan | None = None
        """Without its fragments."""
        self._order: list[int] = []

    def plan(self, fragments: Iterable[Fragment], metadata: Mapping[str, str]) -> ShardPlan:
        """See `plan_shard`."""
        present = [f for f in fragments if f.end > f.start]
        places = [(f.spec, f.start, f.end) for f in present]
        layout = self._layout
        if layout is None or places != self._places or metadata != self._metadata:
            self._order = sorted(range(len(present)), key=lambda i: -present[i].spec.itemsize)
            layout = _lay_out([present[i] for i in self._order], metadata)
            self._places, self._metadata, self._layout = places, dict(metadata), layout
        return replace(layout, fragments=tuple([present[i] for i in self._order]))


def _lay_out(ordered: Sequence[Fragment], metadata: Mapping[str, str]) -> ShardPlan:
    entries = [_entry(fragment) for fragment in ordered]
    name, count = max(Counter(e.name for e in entries).items(), key=itemgetter(1), default=("", 0))
    if count > 1:
        raise SaveFailedError(f"the fragment {name} is given {count} times")
    header = encode_header(entries, metadata)
    offsets = data_offsets(len(header), entries)
    rows = zip(ordered, offsets, strict=True)
    return ShardPlan(
        header=header,
        fragments=(),
        offsets=tuple(offsets),
        sizes_bytes=tuple(entry.size_bytes for entry in entries),
        size_bytes=len(header) + sum(entry.size_bytes for entry in entries),
        rows=spell_rows((one.spec, one.start, one.end, offset) for one, offset in rows),
    )


def _entry(fragment: Fragment) -> Entry:
    return Entry(
        name=f"{fragment.spec.name}@{fragment.start}:{fragment.end}",
        dtype=fragment.spec.dtype,
        shape=(fragment.end - fragment.start,),
        size_bytes=fragment.size_bytes,
    )
