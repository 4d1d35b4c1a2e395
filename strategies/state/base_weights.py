"""Which weights a run with frozen parameters began with: named by file and checksum.

The frozen part of a model is as good as the file that it came from. A run keeps the SHA-256 of each
file of `weights=`, and a resume with other files is refused. Where a file lies does not matter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from hashlib import file_digest
from pathlib import Path
from typing import Any

from checkpointing import JSON, Communicator

from ..errors import ConfigError
from .pretrained import weight_file_paths

_SHOWN_DIGITS = 16


def base_of(
    path: Path, communicator: Communicator, known: Mapping[str, Any] | None = None
) -> dict[str, JSON] | None:
    """Return what names the weights in a file or folder, as JSON. Called on every rank.

    The ranks share the files. One that has the name, size and time of a known one is not read.

    Args:
        path: as `weights=` of a run.
        communicator: the ranks' own.
        known: what an earlier call returned.

    Returns:
        The path and, of each file, its name, size, time and SHA-256; None where a rank cannot read
        one of its files.
    """
    try:
        files = weight_file_paths(path)
    except (ConfigError, OSError):
        files = []
    names = _everyone(communicator, [file.name for file in files])[0]
    by_name = {file.name: file for file in files}
    mine = names[communicator.rank :: communicator.world_size]
    before = {file["name"]: file for file in (known or {}).get("files", ())}
    try:
        read: JSON = [_described(by_name[name], before.get(name)) for name in mine]
    except (OSError, KeyError):
        read = None
    everyone = _everyone(communicator, read)
    if not names or None in everyone:
        return None
    of_all = {file["name"]: file for part in everyone for file in part}
    return {"path": os.path.abspath(path), "files": [of_all[name] for name in names]}


def difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return in what the weights now given differ from those of the run; None: they are the same.

    Pure. Names and places are not compared: a file may have been moved.
    """
    left = [*saved["files"]]
    others = []
    for file in now["files"]:
        same = next((one for one in left if one["sha256"] == file["sha256"]), None)
        if same is None:
            others.append(file)
        else:
            left.remove(same)
    if not left and not others:
        return None
    gone = _shown(saved["path"], left[0]) if left else "none of their files"
    new = _shown(now["path"], others[0]) if others else "no other file in its place"
    return f"{gone} is now {new}"


def require_same_base(
    saved: Mapping[str, Any] | None, path: str | Path | None, communicator: Communicator, where: Any
) -> None:
    """Refuse to resume with other weights than the run began with. Called on every rank.

    Args:
        saved: what `base_of` returned when the run began; None: nothing is compared.
        path: the script's `weights=`; None, or files that are not there any more: a resume does not
            need them.
        communicator: the ranks' own.
        where: the run's folder.

    Raises:
        ConfigError: on every rank, naming the files and both checksums.
    """
    if saved is None or path is None:
        return
    now = base_of(Path(path), communicator, saved)
    if now is not None and (what := difference(saved, now)) is not None:
        raise ConfigError(
            f"the run in {where} began with the weights in {saved['path']}, and weights={path} "
            f"holds others: {what}. Its frozen parameters are those of the first. Pass the same "
            "weights (they may have been moved), or another --run-dir for a new run."
        )


def _everyone(communicator: Communicator, value: JSON) -> Sequence[Any]:
    everyone: Any = communicator.broadcast(communicator.gather(value))
    return list(everyone)


def _described(path: Path, known: Mapping[str, Any] | None) -> dict[str, JSON]:
    status = path.stat()
    as_it_is: dict[str, JSON] = {
        "name": path.name,
        "size_bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
    }
    if known is not None and all(known.get(name) == value for name, value in as_it_is.items()):
        return dict(known)
    with path.open("rb") as file:
        return {**as_it_is, "sha256": file_digest(file, "sha256").hexdigest()}


def _shown(path: str, file: Mapping[str, Any]) -> str:
    place = path if Path(path).name == file["name"] else os.path.join(path, file["name"])
    return f"{place} (SHA-256 {file['sha256'][:_SHOWN_DIGITS]}...)"
