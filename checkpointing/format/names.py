"""The names inside a store's folder.

step-00001200               a checkpoint, complete
.tmp-step-00001200-<token>  a save in flight, or one that died; never read
.trash-step-00001200-<token>  on its way out; never read
refused-step-00001200-<token>  found damaged and kept for a person; never read
objects/<token>-r00000.safetensors  frozen tensors, which several checkpoints name

In an object store, where nothing can be renamed:

step-00001200/manifest.json          a checkpoint, complete
step-00001200/refused-<token>.json   the manifest of one that was found damaged; never read
owner.json                           which run may commit here
.put-<token>                         an object on its way, where a store does not put it whole
"""

import os
import re
from pathlib import PurePath

PIN_NAME = "pin"
"""A file in a checkpoint's folder that keeps it from being deleted."""

OWNER_NAME = "owner.json"
"""Who took an object store over last."""

OBJECTS_FOLDER = "objects"
"""Beside the checkpoints: what several of them share."""

_OBJECT = re.compile(r"objects/([0-9a-f]{16})-r[0-9]{5,}\.safetensors")
_REFUSED_MANIFEST = re.compile(r"refused-[0-9a-f]+\.json")
_STEP = re.compile(r"step-([0-9]{8,})")
_REFUSED = re.compile(r"refused-step-[0-9]{8,}-[0-9a-f]+")
_LEFTOVER = re.compile(r"\.(tmp|trash)-(step-[0-9]{8,}|probe)-[0-9a-f]+|\.put-[0-9a-f]{16}")


def step_folder(step: int) -> str:
    """Return the folder name of a step.

    Raises:
        ValueError: For a negative step.
    """
    if step < 0:
        raise ValueError(f"step={step} is negative; a step counts from 0.")
    return f"step-{step:08d}"


def parse_step_folder(name: str) -> int | None:
    """Return the step of a folder name, None if it is not exactly such a name."""
    match = _STEP.fullmatch(name)
    if match is None:
        return None
    step = int(match[1])
    # One name per step: "step-000000001" would be a second one of step 1.
    return step if step_folder(step) == name else None


def new_token() -> str:
    """Return 16 random hexadecimal digits; clocks and process ids repeat across machines."""
    return os.urandom(8).hex()


def tmp_folder(step: int, token: str) -> str:
    """Return the name under which a save is prepared."""
    return f".tmp-{step_folder(step)}-{token}"


def trash_folder(step: int, token: str) -> str:
    """Return the name under which a checkpoint is deleted."""
    return f".trash-{step_folder(step)}-{token}"


def refused_folder(step: int, token: str) -> str:
    """Return the name under which a damaged checkpoint is kept out of the way."""
    return f"refused-{step_folder(step)}-{token}"


def refused_manifest(token: str) -> str:
    """Return the name that the manifest of a damaged checkpoint gets in an object store."""
    return f"refused-{token}.json"


def is_refused_manifest(name: str) -> bool:
    """Return whether a name is that of a manifest which was set aside."""
    return _REFUSED_MANIFEST.fullmatch(name) is not None


def object_name(rank: int, token: str) -> str:
    """Return the name of the object that a rank writes in an attempt, from the store's folder."""
    return f"{OBJECTS_FOLDER}/{token}-r{rank:05d}.safetensors"


def is_object(name: str) -> bool:
    """Return whether a file of a checkpoint is an object that others may name too."""
    return _OBJECT.fullmatch(name) is not None


def object_attempt(name: str) -> str:
    """Return the token of the attempt that wrote an object; empty for any other name."""
    match = _OBJECT.fullmatch(name)
    return match[1] if match else ""


def file_path(folder: PurePath, name: str) -> PurePath:
    """Return where a file of a checkpoint is.

    Args:
        folder: The checkpoint's.
        name: As it stands in the manifest.
    """
    return (folder.parent if is_object(name) else folder) / name


def draft_name(token: str) -> str:
    """Return the name of an object on its way, where a store does not put it whole."""
    return f".put-{token}"


def probe_folder(token: str) -> str:
    """Return the name of the folder that a test of the disk makes."""
    return f".tmp-probe-{token}"


def is_refused(name: str) -> bool:
    """Return whether a name is that of a checkpoint which was found damaged and set aside."""
    return _REFUSED.fullmatch(name) is not None


def is_checkpoint_name(name: str) -> bool:
    """Return whether a folder of this name is a checkpoint, in use or refused."""
    return parse_step_folder(name) is not None or is_refused(name)


def is_leftover(name: str) -> bool:
    """Return whether a name is one that only a save, a deletion or a probe uses."""
    return _LEFTOVER.fullmatch(name) is not None
