"""Durable, strategy-neutral training state.

Names are loaded when they are first used: listing and verifying checkpoints needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .background_save import BackgroundSave, start_save
    from .background_writer import BackgroundWriter
    from .communicator import Communicator, LocalCommunicator
    from .compare import require_match
    from .difference import (
        SpecDifference,
        StateDifference,
        ValueDifference,
        different_specs,
        different_states,
        different_values,
        flatten,
    )
    from .errors import (
        CheckpointError,
        DamagedCheckpointError,
        ModelMismatchError,
        NoCheckpointError,
        PlaceError,
        SaveFailedError,
    )
    from .export import export_safetensors
    from .export_folder import export_sharded
    from .files import Files
    from .fragment import Fragment, dtype_name, torch_dtype
    from .host_memory import host_free_bytes
    from .importing.source import Source
    from .importing.take_over import import_checkpoint, open_foreign
    from .inventory import Found, Inventory, take_inventory
    from .manifest import MANIFEST_NAME, Manifest
    from .names import PIN_NAME, is_checkpoint_name
    from .places import Place, is_url, place_at, require_place
    from .ranges import Piece, stripe
    from .reader import BlockPiece, CheckpointReader, open_folder
    from .retention import Retention, steps_to_delete
    from .save import SavedCheckpoint, save_checkpoint
    from .snapshot import Snapshot
    from .spec import TensorSpec, UnsupportedDtypeError, require_supported
    from .store import CheckpointStore
    from .strict_json import JSON

__all__ = [
    "JSON",
    "MANIFEST_NAME",
    "PIN_NAME",
    "BackgroundSave",
    "BackgroundWriter",
    "BlockPiece",
    "CheckpointError",
    "CheckpointReader",
    "CheckpointStore",
    "Communicator",
    "DamagedCheckpointError",
    "Files",
    "Found",
    "Fragment",
    "Inventory",
    "LocalCommunicator",
    "Manifest",
    "ModelMismatchError",
    "NoCheckpointError",
    "Piece",
    "Place",
    "PlaceError",
    "Retention",
    "SaveFailedError",
    "SavedCheckpoint",
    "Snapshot",
    "Source",
    "SpecDifference",
    "StateDifference",
    "TensorSpec",
    "UnsupportedDtypeError",
    "ValueDifference",
    "different_specs",
    "different_states",
    "different_values",
    "dtype_name",
    "export_safetensors",
    "export_sharded",
    "flatten",
    "host_free_bytes",
    "import_checkpoint",
    "is_checkpoint_name",
    "is_url",
    "open_folder",
    "open_foreign",
    "place_at",
    "require_match",
    "require_place",
    "require_supported",
    "save_checkpoint",
    "start_save",
    "steps_to_delete",
    "stripe",
    "take_inventory",
    "torch_dtype",
]

_MODULE_OF = {
    "JSON": "strict_json",
    "MANIFEST_NAME": "manifest",
    "PIN_NAME": "names",
    "BackgroundSave": "background_save",
    "BackgroundWriter": "background_writer",
    "BlockPiece": "reader",
    "CheckpointError": "errors",
    "CheckpointReader": "reader",
    "CheckpointStore": "store",
    "Communicator": "communicator",
    "DamagedCheckpointError": "errors",
    "Files": "files",
    "Found": "inventory",
    "Fragment": "fragment",
    "Inventory": "inventory",
    "LocalCommunicator": "communicator",
    "Manifest": "manifest",
    "ModelMismatchError": "errors",
    "NoCheckpointError": "errors",
    "Piece": "ranges",
    "Place": "places",
    "PlaceError": "errors",
    "Retention": "retention",
    "SaveFailedError": "errors",
    "SavedCheckpoint": "save",
    "Snapshot": "snapshot",
    "Source": "importing.source",
    "SpecDifference": "difference",
    "StateDifference": "difference",
    "TensorSpec": "spec",
    "UnsupportedDtypeError": "spec",
    "require_supported": "spec",
    "ValueDifference": "difference",
    "different_specs": "difference",
    "different_states": "difference",
    "different_values": "difference",
    "dtype_name": "fragment",
    "export_safetensors": "export",
    "export_sharded": "export_folder",
    "flatten": "difference",
    "host_free_bytes": "host_memory",
    "import_checkpoint": "importing.take_over",
    "is_checkpoint_name": "names",
    "is_url": "places",
    "open_folder": "reader",
    "open_foreign": "importing.take_over",
    "place_at": "places",
    "require_match": "compare",
    "require_place": "places",
    "save_checkpoint": "save",
    "start_save": "background_save",
    "steps_to_delete": "retention",
    "stripe": "ranges",
    "take_inventory": "inventory",
    "torch_dtype": "fragment",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
