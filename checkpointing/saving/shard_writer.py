"""Write the fragments of one rank as one shard."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath

from ..errors import SaveFailedError
from ..format.manifest import StoredFile
from ..format.names import is_object
from ..format.tensor_bytes import host_pieces
from ..storage.block_writer import write_new_file
from ..storage.local_files import Files
from ..storage.unchanged_file import reuse_earlier
from .own_shard import EarlierShard
from .shard_plan import ShardPlan
from .shard_report import WrittenFile


def write_shard(
    path: PurePath,
    plan: ShardPlan,
    *,
    files: Files,
    block_bytes: int,
    earlier: EarlierShard | None = None,
) -> WrittenFile:
    """Write, sync and close a shard or an object; hold one block and one staging piece besides.

    Args:
        path: Must not exist.
        plan: What goes into it.
        files: How to reach the disk.
        block_bytes: Under one checksum.
        earlier: A file as long; if it holds the same, it is named again and nothing is written.

    Raises:
        SaveFailedError: If the disk refuses; names the file.
    """
    try:
        if earlier is not None:
            name = reuse_earlier(
                path, earlier.path, earlier.record, lambda: _pieces(plan), files=files
            )
            if name is not None:
                return reused_file(plan.rows, earlier, name)
        if is_object(name_of(path)):
            files.make_dirs(path.parent)
        size_bytes, crc32 = write_new_file(
            path, _pieces(plan), plan.size_bytes, files=files, block_bytes=block_bytes
        )
    except OSError as error:
        raise SaveFailedError(f"{path}: {error}") from error
    name = name_of(path)
    file = StoredFile(name=name, size_bytes=size_bytes, block_bytes=block_bytes, crc32=crc32)
    return WrittenFile(record=file, rows=plan.rows)


def reused_file(rows: str, earlier: EarlierShard, name: str) -> WrittenFile:
    """Return a file that was there before, under its present name. Pure."""
    return WrittenFile(record=replace(earlier.record, name=name), rows=rows, is_reused=True)


def name_of(path: PurePath) -> str:
    """Return how a manifest names a file: an object with its folder. Pure."""
    from_store = f"{path.parent.name}/{path.name}"
    return from_store if is_object(from_store) else path.name


def _pieces(plan: ShardPlan) -> Iterator[memoryview]:
    yield memoryview(plan.header)
    for fragment in plan.fragments:
        yield from host_pieces(fragment.data)
