"""Checkpoints of Hugging Face's Trainer: complete, or invisible.

Trainer writes into `checkpoint-N` file by file and resumes from the highest number, whole or not.
Here a checkpoint is written into another folder, verified, synced, sealed with a list of its files,
and then renamed. One that has no seal, since it was written without the bridge, is looked through.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...contract.files.small_file import write_json
from ...run_folder.plain_files import sync

UNFINISHED = ".unfinished"
"""The folder in which checkpoints are written."""
SEAL = "relaunch.json"
STATE = "trainer_state.json"
_MARKED = "checkpoint-is-incomplete.txt"
"""Trainer's own mark, which it does not read."""
_ZIPPED = (".pt", ".pth", ".bin")
_PREFIX = "checkpoint-"


def newest_complete(output: Path, warn: Callable[[str], None]) -> Path | None:
    """Return the complete checkpoint of the highest step; None: there is none.

    Args:
        output: Trainer's `output_dir`, which need not exist.
        warn: takes a sentence about each newer one that is not complete.
    """
    numbered = [(step, path) for path in output.glob(f"{_PREFIX}*") if (step := step_of(path)) >= 0]
    for _, path in sorted(numbered, reverse=True):
        why = damage(path)
        if why is None:
            return path
        warn(f"{path} is not complete ({why}): it is not used.")
    return None


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name; -1 where it is none."""
    number = path.name.removeprefix(_PREFIX)
    is_one = path.name.startswith(_PREFIX) and number.isdecimal() and path.is_dir()
    return int(number) if is_one else -1


def damage(folder: Path) -> str | None:
    """Return why a checkpoint is not complete; None: it is.

    With a seal all files are there with their sizes. Without one each file is whole by itself.
    """
    sealed = read_seal(folder)
    if sealed is not None:
        sizes = sizes_of(folder)
        wrong = [n for n, size in sorted(sealed["files"].items()) if sizes.get(n) != size]
        return f"{wrong[0]} is missing or cut off" if wrong else None
    return damage_of_files(folder, step_of(folder))


def damage_of_files(folder: Path, step: int) -> str | None:
    """Return which file of an unsealed checkpoint is missing or cut off; None: none is."""
    if (folder / _MARKED).exists():
        return f"it holds {_MARKED}"
    try:
        state = json.loads((folder / STATE).read_bytes())
    except (OSError, ValueError):
        return f"{STATE} is missing or cut off"
    if not isinstance(state, dict) or state.get("global_step") != step:
        return f"{STATE} is of another step"
    for name, size in sorted(sizes_of(folder).items()):
        path = folder / name
        if path.suffix == ".safetensors" and not _is_whole_safetensors(path, size):
            return f"{name} is cut off"
        if path.suffix in _ZIPPED and not zipfile.is_zipfile(path):
            return f"{name} is cut off"
        if name.endswith(".index.json") and (absent := _absent_shard(folder, path)):
            return f"{absent} is missing"
    return None


def seal(folder: Path, step: int, facts: Mapping[str, Any]) -> int:
    """Verify a checkpoint that all ranks have written, sync and seal it; return its bytes.

    Called on the coordinator only.

    Raises:
        OSError: a file is missing or cut off, or from the disk.
    """
    if (why := damage_of_files(folder, step)) is not None:
        raise OSError(f"the checkpoint in {folder} is not complete: {why}")
    sizes = sizes_of(folder)
    for name in sizes:
        sync(folder / name)
    write_json(folder / SEAL, {**facts, "step": step, "files": sizes})
    sync(folder / SEAL)
    for path in [folder, *(found for found in folder.rglob("*") if found.is_dir())]:
        sync(path)
    return sum(sizes.values())


def publish(folder: Path, final: Path) -> None:
    """Give a sealed checkpoint its name; what had that name goes. On the coordinator only.

    Raises:
        OSError: from the disk.
    """
    before = folder.with_name(f"before-{final.name}")
    shutil.rmtree(before, ignore_errors=True)
    with suppress(FileNotFoundError):
        final.rename(before)
    folder.rename(final)
    sync(final.parent)
    shutil.rmtree(before, ignore_errors=True)
    with suppress(OSError):  # another checkpoint may be under way there
        folder.parent.rmdir()


def amend(folder: Path, **facts: Any) -> None:
    """Change what the seal of a checkpoint says. On the coordinator only.

    Raises:
        OSError: from the disk.
    """
    write_json(folder / SEAL, {**(read_seal(folder) or {}), **facts})
    sync(folder / SEAL)
    sync(folder)


def read_seal(folder: Path) -> dict[str, Any] | None:
    """Return what the seal says; None: there is none that can be read."""
    try:
        found = json.loads((folder / SEAL).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None


def sizes_of(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file, by its path in the folder; without the seal."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.name != SEAL
    }


def _is_whole_safetensors(path: Path, size: int) -> bool:
    """Whether the file ends where its header says that the last tensor does."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return False
    return 8 + length + max(ends, default=0) == size


def _absent_shard(folder: Path, index: Path) -> str | None:
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return index.name
    return next((name for name in sorted(names) if not (folder / name).is_file()), None)
