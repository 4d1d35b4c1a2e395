"""Durable, strategy-neutral training state.

Names are loaded when they are first used: listing and verifying checkpoints needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .background.host_memory import host_free_bytes
    from .background.save import BackgroundSave, start_save
    from .background.writer import BackgroundWriter
    from .errors import (
        CheckpointError,
        DamagedCheckpointError,
        ModelMismatchError,
        NoCheckpointError,
        PlaceError,
        SaveFailedError,
    )
    from .exporting.hugging_face_folder import export_sharded
    from .exporting.safetensors_file import export_safetensors
    from .format.fragment import Fragment, dtype_name, torch_dtype
    from .format.manifest import MANIFEST_NAME, Manifest, StoredFile
    from .format.model_match import require_match
    from .format.names import PIN_NAME, is_checkpoint_name
    from .format.ranges import Piece, stripe
    from .format.strict_json import JSON
    from .format.tensor_spec import TensorSpec, UnsupportedDtypeError, require_supported
    from .importing.import_checkpoint import import_checkpoint, open_foreign
    from .importing.source import Source
    from .reading.reader import BlockPiece, CheckpointReader, open_folder
    from .saving.communicator import Communicator, LocalCommunicator
    from .saving.frozen_tensors import FrozenTensors
    from .saving.own_shard import OwnShard
    from .saving.save import SavedCheckpoint, save_checkpoint
    from .saving.snapshot import Snapshot
    from .saving.stored_before import StoredBefore
    from .storage.local_files import Files
    from .storage.locations import Place, is_url, place_at, require_place
    from .store.diff import (
        SpecDifference,
        StateDifference,
        ValueDifference,
        different_specs,
        different_states,
        different_values,
        flatten,
    )
    from .store.inventory import Found, Inventory, take_inventory
    from .store.retention import Retention, steps_to_delete
    from .store.store import CheckpointStore

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
    "FrozenTensors",
    "Inventory",
    "LocalCommunicator",
    "Manifest",
    "ModelMismatchError",
    "NoCheckpointError",
    "OwnShard",
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
    "StoredBefore",
    "StoredFile",
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
    "JSON": "format.strict_json",
    "MANIFEST_NAME": "format.manifest",
    "PIN_NAME": "format.names",
    "BackgroundSave": "background.save",
    "BackgroundWriter": "background.writer",
    "BlockPiece": "reading.reader",
    "CheckpointError": "errors",
    "CheckpointReader": "reading.reader",
    "CheckpointStore": "store.store",
    "Communicator": "saving.communicator",
    "DamagedCheckpointError": "errors",
    "Files": "storage.local_files",
    "Found": "store.inventory",
    "Fragment": "format.fragment",
    "FrozenTensors": "saving.frozen_tensors",
    "Inventory": "store.inventory",
    "LocalCommunicator": "saving.communicator",
    "Manifest": "format.manifest",
    "ModelMismatchError": "errors",
    "NoCheckpointError": "errors",
    "OwnShard": "saving.own_shard",
    "Piece": "format.ranges",
    "Place": "storage.locations",
    "PlaceError": "errors",
    "Retention": "store.retention",
    "SaveFailedError": "errors",
    "SavedCheckpoint": "saving.save",
    "Snapshot": "saving.snapshot",
    "Source": "importing.source",
    "SpecDifference": "store.diff",
    "StateDifference": "store.diff",
    "StoredBefore": "saving.stored_before",
    "StoredFile": "format.manifest",
    "TensorSpec": "format.tensor_spec",
    "UnsupportedDtypeError": "format.tensor_spec",
    "require_supported": "format.tensor_spec",
    "ValueDifference": "store.diff",
    "different_specs": "store.diff",
    "different_states": "store.diff",
    "different_values": "store.diff",
    "dtype_name": "format.fragment",
    "export_safetensors": "exporting.safetensors_file",
    "export_sharded": "exporting.hugging_face_folder",
    "flatten": "store.diff",
    "host_free_bytes": "background.host_memory",
    "import_checkpoint": "importing.import_checkpoint",
    "is_checkpoint_name": "format.names",
    "is_url": "storage.locations",
    "open_folder": "reading.reader",
    "open_foreign": "importing.import_checkpoint",
    "place_at": "storage.locations",
    "require_match": "format.model_match",
    "require_place": "storage.locations",
    "save_checkpoint": "saving.save",
    "start_save": "background.save",
    "steps_to_delete": "store.retention",
    "stripe": "format.ranges",
    "take_inventory": "store.inventory",
    "torch_dtype": "format.fragment",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
