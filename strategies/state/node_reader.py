"""A checkpoint read by the ranks of a node together: what all of them need is read once."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist

from checkpointing import (
    BlockPiece,
    CheckpointReader,
    DamagedCheckpointError,
    Manifest,
    torch_dtype,
)

from ..collectives.process_group import NodeGroup


def owner_of(piece: BlockPiece, num_members: int) -> int:
    """Return which member of a node reads a piece; all of a section have the same. Pure."""
    return (crc32(piece.file.encode()) + piece.section) % num_members


class NodeSource:
    """Reads one checkpoint; remembers the first failure instead of raising it.

    A rank that raised would leave the others of its node waiting for its part. So a read that
    fails yields undefined values, every rank continues to the end, and `raise_failure` reports it.
    """

    def __init__(self, reader: CheckpointReader, node: NodeGroup) -> None:
        self._reader = reader
        self._node = node
        self._failure: DamagedCheckpointError | OSError | None = None

    @property
    def manifest(self) -> Manifest:
        """What the checkpoint consists of."""
        return self._reader.manifest

    def has(self, fqn: str, key: str) -> bool:
        """Return whether the checkpoint has this tensor."""
        return self._reader.has(fqn, key)

    def read(self, fqn: str, key: str, start: int, end: int) -> torch.Tensor:
        """Return elements [start, end) of the flattened tensor, for this rank alone.

        Returns:
            [end - start], on the CPU, of the stored dtype.

        Raises:
            ModelMismatchError: the checkpoint has no such tensor.
        """
        out = self._empty(fqn, key, end - start)
        if self._failure is None:
            try:
                self._reader.read_into(fqn, key, start, end, out)
            except (DamagedCheckpointError, OSError) as error:
                self._failure = error
        return out

    def read_whole(self, fqn: str, key: str, numel: int) -> torch.Tensor:
        """Return all of a tensor; each section is read by one rank of the node and checked there.

        Called on every rank of the node, for the same tensors in the same order.

        Returns:
            [numel], on the CPU, of the stored dtype.

        Raises:
            ModelMismatchError: the checkpoint has no such tensor.
        """
        if self._node.group is None:
            return self.read(fqn, key, 0, numel)
        out = self._empty(fqn, key, numel)
        content = out.view(torch.uint8)
        under_way: list[Any] = []
        num_members = len(self._node.members)
        for piece in self._reader.pieces(fqn, key, 0, numel, num_readers=num_members):
            part = content[piece.position : piece.position + piece.size_bytes]
            owner = owner_of(piece, num_members)
            if owner == self._node.own:
                self._fill(piece, part)
            # Not waited for one by one: the others read their own parts meanwhile.
            under_way.append(
                dist.broadcast(
                    part, src=self._node.members[owner], group=self._node.group, async_op=True
                )
            )
        for work in under_way:
            work.wait()
        return out

    def raise_failure(self) -> None:
        """Raise the first failure of this rank's reads, if there was one.

        Raises:
            DamagedCheckpointError: naming the file and the byte range.
            OSError: the storage did not answer, which says nothing about the checkpoint.
        """
        if self._failure is not None:
            raise self._failure

    def _empty(self, fqn: str, key: str, numel: int) -> torch.Tensor:
        return torch.empty(numel, dtype=torch_dtype(self._reader.spec(fqn, key).dtype))

    def _fill(self, piece: BlockPiece, part: torch.Tensor) -> None:
        if self._failure is not None:
            return
        try:
            self._reader.read_piece(piece, part.numpy().data)
        except (DamagedCheckpointError, OSError) as error:
            self._failure = error
