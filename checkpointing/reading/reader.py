"""Read any range of any tensor of one checkpoint."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import DamagedCheckpointError, ModelMismatchError
from ..format.manifest import Manifest, NamedTensor, StoredTensor
from ..format.names import file_path
from ..format.ranges import Range, overlaps
from ..format.tensor_spec import TensorSpec
from ..storage.local_files import LOCAL_FILES, Files
from .shard_reader import ShardReader
from .verify import find_damage, load_manifest, require_file, saying_who_needs
from .weight_files import naming_what_it_is_for, open_named

if TYPE_CHECKING:
    import torch

_MAX_OPEN_FILES = 64


@dataclass(frozen=True, kw_only=True)
class BlockPiece:
    """The part of a range of elements that lies in one section of one file."""

    file: str
    section: int
    """A block of the file, or as many neighbouring blocks as are worth reading at once."""

    offset: int
    """First byte in the file."""

    position: int
    """First byte in the range."""

    size_bytes: int


class CheckpointReader:
    """A checkpoint whose manifest is verified and whose files are present.

    The bytes are verified as they are read, each block once per reader. Torch is imported by the
    first read, so that listing and verifying do not need it. Not thread-safe.

    Attributes:
        folder: The checkpoint's folder.
        manifest: Its content: `step`, `state`, `created_by`, `specs()`.

    Args:
        folder: The checkpoint's folder.
        manifest: Its content.
        files: How it is reached.
        weight_files: Where tensors that it names in files of others are looked for first.

    Raises:
        DamagedCheckpointError: If a file is missing, a link, or of another size.
    """

    def __init__(
        self,
        folder: PurePath,
        manifest: Manifest,
        files: Files,
        weight_files: Sequence[Path] = (),
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self._files = files
        self._tensors = {(t.spec.fqn, t.spec.key): t for t in manifest.tensors}
        self._shards: dict[str, ShardReader] = {}
        for record in manifest.files:
            require_file(folder, record, files)
            path = file_path(folder, record.name)
            self._shards[record.name] = ShardReader(path, record, files)
        for named in manifest.named:
            with naming_what_it_is_for(named, folder, files):
                self._shards[named.name] = open_named(named, weight_files)
        self._weight_files = weight_files
        self._records = {one.name: one for one in (*manifest.files, *manifest.named)}
        self._recently_used: OrderedDict[str, ShardReader] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files, even if closing one of them fails."""
        with ExitStack() as closing:
            while self._recently_used:
                closing.callback(self._recently_used.popitem()[1].close)

    def has(self, fqn: str, key: str) -> bool:
        """Return whether the checkpoint has this tensor."""
        return (fqn, key) in self._tensors

    def spec(self, fqn: str, key: str) -> TensorSpec:
        """Return dtype and shape of a tensor.

        Raises:
            ModelMismatchError: If the checkpoint has no such tensor.
        """
        return self._stored(fqn, key).spec

    def shares(self, other: "CheckpointReader", fqn: str, key: str) -> bool:
        """Return whether a tensor is the same bytes of the same files in another checkpoint.

        These are objects, or files of others that both name with the same checksums.

        Raises:
            ModelMismatchError: If one of the two has no such tensor.
        """
        mine, theirs = self._stored(fqn, key).chunks, other._stored(fqn, key).chunks
        return mine == theirs and all(self._has_as(other, chunk.file) for chunk in mine)

    def _has_as(self, other: "CheckpointReader", name: str) -> bool:
        record = self._records[name]
        if isinstance(record, NamedTensor):
            return record == other._records[name]
        return record.is_object and self.folder.parent == other.folder.parent

    def read(self, fqn: str, key: str, start: int, end: int) -> "torch.Tensor":
        """Return the elements [start, end) of the flattened tensor, in new CPU memory.

        Returns:
            [end - start], of the tensor's dtype.

        Raises:
            DamagedCheckpointError: Naming the file and the byte range.
            ModelMismatchError: If the checkpoint has no such tensor.
            ValueError: If the range is not within the tensor.
        """
        import torch

        from ..format.fragment import torch_dtype

        dtype = torch_dtype(self.spec(fqn, key).dtype)
        out = torch.empty(max(0, end - start), dtype=dtype)
        self.read_into(fqn, key, start, end, out)
        return out

    def read_into(self, fqn: str, key: str, start: int, end: int, out: "torch.Tensor") -> None:
        """Fill a tensor with the elements [start, end) of the flattened tensor.

        Args:
            fqn: The parameter or buffer.
            key: Which tensor of it.
            start: First element.
            end: One past the last element.
            out: [end - start], contiguous, of the stored dtype, on any device. Its content is
                undefined if this raises.

        Raises:
            DamagedCheckpointError: Naming the file and the byte range.
            ModelMismatchError: If the checkpoint has no such tensor.
            ValueError: If the range or `out` does not fit.
        """
        from ..format.tensor_bytes import fill_pieces

        stored = self._stored(fqn, key)
        self._require_fit(stored.spec, start, end, out)
        itemsize = stored.spec.itemsize
        for first, piece in fill_pieces(out):
            low = start + first
            self._copy_bytes(stored, Range(low, low + len(piece) // itemsize), piece)

    def read_raw(self, fqn: str, key: str, start: int, end: int) -> bytearray:
        """Return the bytes of the elements [start, end), little-endian; without torch.

        Raises:
            DamagedCheckpointError: Naming the file and the byte range.
            ModelMismatchError: If the checkpoint has no such tensor.
            ValueError: If the range is not within the tensor.
        """
        stored = self._stored(fqn, key)
        _require_within(stored.spec, start, end)
        content = bytearray((end - start) * stored.spec.itemsize)
        self._copy_bytes(stored, Range(start, end), memoryview(content))
        return content

    def pieces(
        self, fqn: str, key: str, start: int, end: int, *, num_readers: int = 1
    ) -> list[BlockPiece]:
        """Return where the elements [start, end) lie, cut at the sections; reads nothing.

        A rank that reads all pieces of a section reads each of its blocks once. `num_readers` share
        what is worth reading at once.

        Raises:
            ModelMismatchError: If the checkpoint has no such tensor.
            ValueError: If the range is not within the tensor.
        """
        stored = self._stored(fqn, key)
        _require_within(stored.spec, start, end)
        itemsize, found = stored.spec.itemsize, []
        starts = [chunk.start for chunk in stored.chunks]
        for index, low, high in overlaps(starts, Range(start, end)):
            chunk = stored.chunks[index]
            offset = chunk.offset + (low - chunk.start) * itemsize
            last = offset + (high - low) * itemsize
            section_bytes = self._shards[chunk.file].section_bytes(num_readers)
            shift = (low - start) * itemsize - offset
            while offset < last:
                section = offset // section_bytes
                size_bytes = min(last, (section + 1) * section_bytes) - offset
                found.append(
                    BlockPiece(
                        file=chunk.file,
                        section=section,
                        offset=offset,
                        position=offset + shift,
                        size_bytes=size_bytes,
                    )
                )
                offset += size_bytes
        return found

    def read_piece(self, piece: BlockPiece, out: memoryview) -> None:
        """Fill a buffer with the bytes of a piece.

        Args:
            piece: From `pieces`.
            out: [size_bytes], of itemsize 1. Its content is undefined if this raises.

        Raises:
            DamagedCheckpointError: Naming the file and the byte range.
        """
        self._read_file(piece.file, piece.offset, out)

    def verify(self) -> list[str]:
        """Re-read every byte, without torch; return all damage, empty if there is none."""
        return find_damage(self.folder, self.manifest, self._files, self._weight_files)

    def _copy_bytes(self, stored: StoredTensor, wanted: Range, out: memoryview) -> None:
        itemsize = stored.spec.itemsize
        starts = [chunk.start for chunk in stored.chunks]
        for index, start, end in overlaps(starts, wanted):
            chunk = stored.chunks[index]
            offset = chunk.offset + (start - chunk.start) * itemsize
            target = out[(start - wanted.start) * itemsize : (end - wanted.start) * itemsize]
            try:
                self._read_file(chunk.file, offset, target)
            except DamagedCheckpointError as error:
                error.add_note(f"while reading elements [{start}, {end}) of {stored.spec.name}")
                raise

    def _read_file(self, name: str, offset: int, out: memoryview) -> None:
        record = self._records[name]
        saying: AbstractContextManager[None] = (
            naming_what_it_is_for(record, self.folder, self._files)
            if isinstance(record, NamedTensor)
            else saying_who_needs(record, self.folder, self._files)
        )
        with saying:
            self._opened(name).read_into(offset, out)

    def _opened(self, name: str) -> ShardReader:
        shard = self._recently_used.pop(name, None) or self._shards[name]
        self._recently_used[name] = shard
        # A checkpoint of a thousand ranks has more shards than a process may open.
        if len(self._recently_used) > _MAX_OPEN_FILES:
            self._recently_used.popitem(last=False)[1].close()
        return shard

    def _stored(self, fqn: str, key: str) -> StoredTensor:
        try:
            return self._tensors[fqn, key]
        except KeyError:
            raise ModelMismatchError(
                f"{self.folder.name} has no {key} of {fqn}. Is this the same model config?"
            ) from None

    def _require_fit(self, spec: TensorSpec, start: int, end: int, out: "torch.Tensor") -> None:
        from ..format.fragment import torch_dtype

        _require_within(spec, start, end)
        is_right = out.shape == (end - start,) and out.dtype == torch_dtype(spec.dtype)
        if not is_right or not out.is_contiguous():
            raise ValueError(
                f"{spec.name} [{start}, {end}) needs a contiguous tensor of {end - start} "
                f"elements of {spec.dtype}; out is {tuple(out.shape)} of {out.dtype}."
            )


def open_folder(
    folder: PurePath, files: Files = LOCAL_FILES, weight_files: Sequence[Path] = ()
) -> CheckpointReader:
    """Open one checkpoint under any folder name: also a copy, or one that was refused.

    Args:
        folder: The checkpoint's folder.
        files: How it is reached.
        weight_files: See `CheckpointReader`.

    Raises:
        DamagedCheckpointError: Naming the file.
    """
    return CheckpointReader(folder, load_manifest(folder, None, files), files, weight_files)


def _require_within(spec: TensorSpec, start: int, end: int) -> None:
    if not 0 <= start <= end <= spec.numel:
        raise ValueError(
            f"[{start}, {end}) is not within the {spec.numel} elements of {spec.name}."
        )
