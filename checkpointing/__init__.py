"""Durable, strategy-neutral training state.

Names are loaded when they are first used: listing and verifying checkpoints needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .communicator import Communicator, LocalCommunicator
    from .compare import require_match
    from .errors import (
        CheckpointError,
        DamagedCheckpointError,
        ModelMismatchError,
        NoCheckpointError,
        SaveFailedError,
    )
    from .export import export_safetensors
    from .files import Files
    from .fragment import Fragment, dtype_name, torch_dtype
    from .manifest import Manifest
    from .ranges import Piece, stripe
    from .reader import CheckpointReader
    from .retention import steps_to_delete
    from .save import SavedCheckpoint, save_checkpoint
    from .spec import TensorSpec
    from .store import CheckpointStore
    from .strict_json import JSON

__all__ = [
    "JSON",
    "CheckpointError",
    "CheckpointReader",
    "CheckpointStore",
    "Communicator",
    "DamagedCheckpointError",
    "Files",
    "Fragment",
    "LocalCommunicator",
    "Manifest",
    "ModelMismatchError",
    "NoCheckpointError",
    "Piece",
    "SaveFailedError",
    "SavedCheckpoint",
    "TensorSpec",
    "dtype_name",
    "export_safetensors",
    "require_match",
    "save_checkpoint",
    "steps_to_delete",
    "stripe",
    "torch_dtype",
]

_MODULE_OF = {
    "JSON": "strict_json",
    "CheckpointError": "errors",
    "CheckpointReader": "reader",
    "CheckpointStore": "store",
    "Communicator": "communicator",
    "DamagedCheckpointError": "errors",
    "Files": "files",
    "Fragment": "fragment",
    "LocalCommunicator": "communicator",
    "Manifest": "manifest",
    "ModelMismatchError": "errors",
    "NoCheckpointError": "errors",
    "Piece": "ranges",
    "SaveFailedError": "errors",
    "SavedCheckpoint": "save",
    "TensorSpec": "spec",
    "dtype_name": "fragment",
    "export_safetensors": "export",
    "require_match": "compare",
    "save_checkpoint": "save",
    "steps_to_delete": "retention",
    "stripe": "ranges",
    "torch_dtype": "fragment",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
