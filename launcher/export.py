"""The finished model as one plain safetensors file."""

from __future__ import annotations

from checkpointing import JSON, CheckpointError, CheckpointStore, export_safetensors
from strategies import HostCommunicator, StrategyError

from .run_folder import RunFolder
from .saved_facts import export_metadata


def export_model(
    folder: RunFolder,
    store: CheckpointStore,
    step: int,
    communicator: HostCommunicator,
    *,
    which: str | None = None,
) -> None:
    """Write the weights of a checkpoint to `folder.export_path`. Called on every rank.

    The coordinator reads the shards and writes, in bounded memory; nothing is gathered.

    Raises:
        StrategyError: on every rank, when the coordinator could not.
    """
    failure: JSON = None
    if communicator.rank == 0:
        try:
            _write(folder, store, step, preferred="ema" if which == "ema" else None)
        except (CheckpointError, OSError, ValueError) as error:
            failure = str(error)
    failure = communicator.broadcast(failure)
    if failure is not None:
        raise StrategyError(f"the model of step {step} could not be exported: {failure}")


def _write(folder: RunFolder, store: CheckpointStore, step: int, preferred: str | None) -> None:
    with store.open(step) as reader:
        metadata = export_metadata(step, reader.manifest.state)
        folder.export_path.parent.mkdir(parents=True, exist_ok=True)
        export_safetensors(reader, folder.export_path, metadata=metadata, preferred=preferred)
