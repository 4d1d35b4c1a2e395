"""Export a checkpoint as a folder that Hugging Face's libraries load."""

from collections.abc import Mapping
from pathlib import Path

from ..errors import SaveFailedError
from ..format.tensor_spec import TensorSpec
from ..reading.reader import CheckpointReader
from ..storage.atomic_write import written_aside
from ..storage.local_files import LOCAL_FILES, Files
from ..storage.small_files import read_whole, write_durably
from .plan import INDEX_NAME, WEIGHT_KEYS, choose_tensors, index_text, split_files
from .safetensors_file import write_and_close


def export_sharded(
    reader: CheckpointReader,
    path: Path,
    *,
    dtype: str | None = None,
    max_file_bytes: int,
    config: Path | None = None,
    metadata: Mapping[str, str],
    files: Files = LOCAL_FILES,
) -> list[str]:
    """Write the weights as safetensors files with an index, and a config beside them.

    The folder appears under its name only when it is complete and durable. Memory stays below a
    few blocks, whatever the size of the model.

    Args:
        reader: The checkpoint.
        path: The folder; it must not exist, or be empty.
        dtype: F16, BF16, F32 or F64 to convert the floating-point tensors; None leaves every
            tensor as it is stored.
        max_file_bytes: The most tensor bytes in a file; a larger tensor has one for itself.
        config: Copied to config.json as it is.
        metadata: Goes into the headers, besides {"format": "pt"}.
        files: How to reach the disk.

    Returns:
        The names of the files written.

    Raises:
        DamagedCheckpointError: If the checkpoint is damaged; nothing is exported.
        SaveFailedError: If the disk refuses.
        ValueError: If the folder has something in it, the checkpoint has no weights, or an
            argument is not possible.
    """
    specs = choose_tensors(reader.manifest.specs(), WEIGHT_KEYS)
    split = split_files(specs, dtype, max_file_bytes)
    texts = _texts(path, split, dtype, config, files)
    with written_aside(path, files) as aside:
        files.mkdir(aside)
        for name, group in split.items():
            write_and_close(reader, files.create(aside / name), group, dtype, metadata, files)
        for name, text in texts.items():
            write_durably(aside / name, text, files)
        files.fsync_dir(aside)
    return [*split, *texts]


def _texts(
    path: Path,
    split: dict[str, list[TensorSpec]],
    dtype: str | None,
    config: Path | None,
    files: Files,
) -> dict[str, bytes]:
    """Return the small files beside the weights, having looked whether the folder is free."""
    try:
        if files.exists(path) and (not files.is_dir(path) or files.listdir(path)):
            raise ValueError(f"{path} exists already. Pass a new folder.")
        # A config behind a link (a download cache) is meant as the file it leads to.
        texts = {"config.json": read_whole(config.resolve(), files)} if config else {}
    except OSError as error:
        raise SaveFailedError(f"{path} was not exported: {error}") from error
    if len(split) > 1:
        texts[INDEX_NAME] = index_text(split, dtype)
    return texts
