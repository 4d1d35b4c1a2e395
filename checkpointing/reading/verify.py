"""Open the manifest of a folder, and ask whether its files are there."""

from pathlib import PurePath

from ..errors import DamagedCheckpointError
from ..format.manifest import MANIFEST_NAME, Manifest, StoredFile
from ..format.manifest_json import parse_manifest
from ..storage.local_files import Files
from ..storage.small_files import read_whole, reading
from .shard_reader import ShardReader


def load_manifest(folder: PurePath, step: int | None, files: Files) -> Manifest:
    """Read and prove the manifest of a checkpoint; of any step where none is given.

    Raises:
        DamagedCheckpointError: If it is missing, altered, inconsistent, or of another step.
    """
    path = folder / MANIFEST_NAME
    text = read_whole(path, files)
    try:
        manifest = parse_manifest(text)
    except ValueError as error:
        raise DamagedCheckpointError(path, str(error)) from error
    if step is not None and manifest.step != step:
        raise DamagedCheckpointError(path, f"is of step {manifest.step}, not of step {step}")
    return manifest


def require_file(folder: PurePath, record: StoredFile, files: Files) -> None:
    """Refuse a shard that is missing, is a link, or has another size than it had.

    Raises:
        DamagedCheckpointError: Naming the file.
    """
    path = folder / record.name
    with reading(path):
        size_bytes = files.size(path)
    if size_bytes != record.size_bytes:
        raise DamagedCheckpointError(path, f"has {size_bytes} bytes instead of {record.size_bytes}")


def find_damage(folder: PurePath, manifest: Manifest, files: Files) -> list[str]:
    """Re-read all shards; return every problem, each naming its file and byte range.

    Without torch. Empty means that every byte is as it was written.
    """
    lines = []
    for record in manifest.files:
        try:
            require_file(folder, record, files)
        except DamagedCheckpointError as error:
            lines.append(str(error))
            continue
        shard = ShardReader(folder / record.name, record, files)
        try:
            lines += shard.find_damage()
        finally:
            shard.close()
    return lines
