"""Which shard a rank has in the newest checkpoint: the same bytes are not written again.

A save after an evaluation, or one that repeats a step's, has another state besides tensors and the
same tensors. Its shards get a second name, and the save writes a manifest alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from ..format.manifest import StoredFile
from ..format.shard_header import shard_rank
from .shard_plan import Layouts


@dataclass(frozen=True, kw_only=True)
class EarlierShard:
    """A shard of a checkpoint that is committed."""

    path: PurePath
    record: StoredFile


class OwnShard:
    """One for each store, on every rank. No method is a collective."""

    def __init__(self) -> None:
        self._newest: EarlierShard | None = None
        self.layouts = Layouts()
        """Of this shard, save after save."""

    def forget(self) -> None:
        """Rely on nothing that was stored: the next save writes its shard."""
        self._newest = None

    def committed(self, folder: PurePath, rank: int, files: Iterable[StoredFile]) -> None:
        """Note what a checkpoint consists of, once it is committed or loaded.

        Args:
            folder: The checkpoint's.
            rank: This rank.
            files: Those of the checkpoint, or this rank's alone.
        """
        self._newest = next(
            (
                EarlierShard(path=folder / file.name, record=file)
                for file in files
                if shard_rank(file.name) == rank
            ),
            None,
        )

    def like(self, size_bytes: int, block_bytes: int) -> EarlierShard | None:
        """Return the newest shard, if a file of this size could be the same."""
        newest = self._newest
        if newest is None or newest.record.size_bytes != size_bytes:
            return None
        return newest if newest.record.block_bytes == block_bytes else None
