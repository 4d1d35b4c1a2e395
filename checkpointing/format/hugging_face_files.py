"""Which files of a folder are a model's, where Hugging Face's libraries wrote it. Pure."""

import json
from collections.abc import Callable, Collection

ONE_FILE = "model.safetensors"
_ENDING, _INDEX_ENDING = ".safetensors", ".safetensors.index.json"
INDEX = ONE_FILE.removesuffix(_ENDING) + _INDEX_ENDING


def weight_files(names: Collection[str], read_index: Callable[[str], bytes]) -> list[str]:
    """Return the safetensors files that are the model, in order.

    As `from_pretrained` chooses: the single file before the index, since `save_pretrained` leaves
    the index of an earlier, larger save in place; and of an index just the files that it names.
    Where neither is there, every file counts.

    Args:
        names: All files of the folder.
        read_index: Returns the content of one of them.

    Raises:
        ValueError: An index is none, or there are several and none is the model's.
    """
    files = sorted(name for name in names if name.endswith(_ENDING))
    stems = sorted(name.removesuffix(_INDEX_ENDING) for name in names if is_index(name))
    if ONE_FILE in files:
        return [ONE_FILE]
    if INDEX in names:
        stems = [INDEX.removesuffix(_INDEX_ENDING)]
    if len(stems) > 1:
        raise ValueError(
            f"it has the indices of {len(stems)} models ({', '.join(stems)}). Pass a folder with "
            "one of them."
        )
    if not stems:
        return files
    single = stems[0] + _ENDING
    return [single] if single in files else _named_by(stems[0] + _INDEX_ENDING, read_index)


def is_index(name: str) -> bool:
    """Return whether a file is an index by its name."""
    return name.endswith(_INDEX_ENDING)


def _named_by(index: str, read_index: Callable[[str], bytes]) -> list[str]:
    try:
        found = set(json.loads(read_index(index))["weight_map"].values())
        if not all(isinstance(name, str) and name.endswith(_ENDING) for name in found):
            raise TypeError("it names a file that is not a safetensors file")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is not an index: {error!r}") from error
    return sorted(found)
