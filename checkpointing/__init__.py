"""Durable, strategy-neutral training state.

Names are loaded when they are first used: listing and verifying checkpoints needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .background.host_memory import host_free_bytes as host_free_bytes
    from .background.save import BackgroundSave as BackgroundSave
    from .background.save import start_save as start_save
    from .background.writer import BackgroundWriter as BackgroundWriter
    from .errors import CheckpointError as CheckpointError
    from .errors import DamagedCheckpointError as DamagedCheckpointError
    from .errors import ModelMismatchError as ModelMismatchError
    from .errors import NoCheckpointError as NoCheckpointError
    from .errors import PlaceError as PlaceError
    from .errors import SaveFailedError as SaveFailedError
    from .exporting.hugging_face_folder import export_sharded as export_sharded
    from .exporting.safetensors_file import export_safetensors as export_safetensors
    from .format.fragment import Fragment as Fragment
    from .format.fragment import dtype_name as dtype_name
    from .format.fragment import torch_dtype as torch_dtype
    from .format.manifest import MANIFEST_NAME as MANIFEST_NAME
    from .format.manifest import Manifest as Manifest
    from .format.manifest import StoredFile as StoredFile
    from .format.model_match import require_match as require_match
    from .format.names import PIN_NAME as PIN_NAME
    from .format.names import is_checkpoint_name as is_checkpoint_name
    from .format.ranges import Piece as Piece
    from .format.ranges import stripe as stripe
    from .format.strict_json import JSON as JSON
    from .format.tensor_spec import TensorSpec as TensorSpec
    from .format.tensor_spec import UnsupportedDtypeError as UnsupportedDtypeError
    from .format.tensor_spec import require_supported as require_supported
    from .importing.import_checkpoint import import_checkpoint as import_checkpoint
    from .importing.import_checkpoint import open_foreign as open_foreign
    from .importing.source import Source as Source
    from .reading.reader import BlockPiece as BlockPiece
    from .reading.reader import CheckpointReader as CheckpointReader
    from .reading.reader import open_folder as open_folder
    from .saving.communicator import Communicator as Communicator
    from .saving.communicator import LocalCommunicator as LocalCommunicator
    from .saving.frozen_tensors import FrozenTensors as FrozenTensors
    from .saving.own_shard import OwnShard as OwnShard
    from .saving.save import SavedCheckpoint as SavedCheckpoint
    from .saving.save import save_checkpoint as save_checkpoint
    from .saving.snapshot import Snapshot as Snapshot
    from .saving.stored_before import StoredBefore as StoredBefore
    from .storage.local_files import Files as Files
    from .storage.locations import Place as Place
    from .storage.locations import is_url as is_url
    from .storage.locations import place_at as place_at
    from .storage.locations import require_place as require_place
    from .store.diff import SpecDifference as SpecDifference
    from .store.diff import StateDifference as StateDifference
    from .store.diff import ValueDifference as ValueDifference
    from .store.diff import different_specs as different_specs
    from .store.diff import different_states as different_states
    from .store.diff import different_values as different_values
    from .store.diff import flatten as flatten
    from .store.inventory import Found as Found
    from .store.inventory import Inventory as Inventory
    from .store.inventory import take_inventory as take_inventory
    from .store.retention import Retention as Retention
    from .store.retention import steps_to_delete as steps_to_delete
    from .store.store import CheckpointStore as CheckpointStore

_NAMES = {
    "background.host_memory": "host_free_bytes",
    "background.save": "BackgroundSave start_save",
    "background.writer": "BackgroundWriter",
    "errors": (
        "CheckpointError DamagedCheckpointError ModelMismatchError NoCheckpointError "
        "PlaceError SaveFailedError"
    ),
    "exporting.hugging_face_folder": "export_sharded",
    "exporting.safetensors_file": "export_safetensors",
    "format.fragment": "Fragment dtype_name torch_dtype",
    "format.manifest": "MANIFEST_NAME Manifest StoredFile",
    "format.model_match": "require_match",
    "format.names": "PIN_NAME is_checkpoint_name",
    "format.ranges": "Piece stripe",
    "format.strict_json": "JSON",
    "format.tensor_spec": "TensorSpec UnsupportedDtypeError require_supported",
    "importing.import_checkpoint": "import_checkpoint open_foreign",
    "importing.source": "Source",
    "reading.reader": "BlockPiece CheckpointReader open_folder",
    "saving.communicator": "Communicator LocalCommunicator",
    "saving.frozen_tensors": "FrozenTensors",
    "saving.own_shard": "OwnShard",
    "saving.save": "SavedCheckpoint save_checkpoint",
    "saving.snapshot": "Snapshot",
    "saving.stored_before": "StoredBefore",
    "storage.local_files": "Files",
    "storage.locations": "Place is_url place_at require_place",
    "store.diff": (
        "SpecDifference StateDifference ValueDifference different_specs different_states "
        "different_values flatten"
    ),
    "store.inventory": "Found Inventory take_inventory",
    "store.retention": "Retention steps_to_delete",
    "store.store": "CheckpointStore",
}
"""By module, what this package exports."""
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
