"""Open the manifest of a folder, and ask whether its files are there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

from ..errors import DamagedCheckpointError, UnreadFormatError
from ..format.manifest import MANIFEST_NAME, Manifest, StoredFile
from ..format.manifest_json import UnreadVersionError, parse_manifest
from ..format.names import file_path
from ..storage.local_files import Files
from ..storage.locations import publishing_of
from ..storage.objects import who_needs
from ..storage.small_files import read_whole, reading
from .shard_reader import ShardReader
from .weight_files import needs_of, open_named


def load_manifest(folder: PurePath, step: int | None, files: Files) -> Manifest:
    """Read and prove the manifest of a checkpoint; of any step where none is given.

    Raises:
        UnreadFormatError: If it is of a format that is not read here.
        DamagedCheckpointError: If it is missing, altered, inconsistent, or of another step.
    """
    path = folder / MANIFEST_NAME
    text = read_whole(path, files)
    try:
        manifest = parse_manifest(text)
    except UnreadVersionError as error:
        raise UnreadFormatError(path, str(error)) from error
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
    path = file_path(folder, record.name)
    with saying_who_needs(record, folder, files):
        with reading(path):
            size_bytes = files.size(path)
        if size_bytes != record.size_bytes:
            problem = f"has {size_bytes} bytes instead of {record.size_bytes}"
            raise DamagedCheckpointError(path, problem)


@contextmanager
def saying_who_needs(record: StoredFile, folder: PurePath, files: Files) -> Iterator[None]:
    """Add to the message about a damaged object which checkpoints need it.

    Raises:
        DamagedCheckpointError: Naming them.
    """
    try:
        yield
    except DamagedCheckpointError as error:
        if not record.is_object:
            raise
        needs = _who_needs(record, folder, files)
        raise DamagedCheckpointError(error.path, f"{error.problem}. {needs}.") from error


def _who_needs(record: StoredFile, folder: PurePath, files: Files) -> str:
    manifests = publishing_of(folder.parent, files).manifests()
    return who_needs(record.name, manifests, files)


def find_damage(
    folder: PurePath, manifest: Manifest, files: Files, weight_files: Sequence[Path] = ()
) -> list[str]:
    """Re-read all files; return every problem, each naming its file and byte range.

    Of files of others, the tensors that the checkpoint names. `weight_files`: see `open_named`.

    Without torch. Empty means that every byte is as it was written.
    """
    lines = []
    for record in manifest.files:
        try:
            require_file(folder, record, files)
        except DamagedCheckpointError as error:
            lines.append(str(error))
            continue
        shard = ShardReader(file_path(folder, record.name), record, files)
        try:
            found = shard.find_damage()
        finally:
            shard.close()
        if found and record.is_object:
            found[-1] += f". {_who_needs(record, folder, files)}."
        lines += found
    return lines + _damage_of_named(folder, manifest, files, weight_files)


def _damage_of_named(
    folder: PurePath, manifest: Manifest, files: Files, weight_files: Sequence[Path]
) -> list[str]:
    found: dict[str, list[str]] = {}
    for named in manifest.named:
        try:
            shard = open_named(named, weight_files)
            try:
                lines = [f"{line}, of {named.tensor}" for line in shard.find_damage()]
            finally:
                shard.close()
        except DamagedCheckpointError as error:
            lines = [f"{error}, to read {named.tensor}"]
        if lines:
            found.setdefault(named.path, []).extend(lines)
    for path, lines in found.items():
        lines[-1] += f". {needs_of(path, folder, files)}."
    return [line for lines in found.values() for line in lines]
