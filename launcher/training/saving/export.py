"""The finished model as one plain safetensors file."""

from __future__ import annotations

from collections.abc import Callable

from checkpointing import JSON, CheckpointError, CheckpointStore, export_safetensors
from strategies import HostCommunicator, StrategyError

from ...run_folder.checkpoint_summary import export_metadata
from ...run_folder.folder import RunFolder
from .model_config import write_config


class _Asked(Exception):
    """The coordinator has a preemption notice."""


def export_model(
    folder: RunFolder,
    store: CheckpointStore,
    step: int,
    communicator: HostCommunicator,
    *,
    which: str | None = None,
    asked: Callable[[], bool] = lambda: False,
    config: dict[str, JSON] | None = None,
) -> bool:
    """Write the weights of a checkpoint to `folder.export_path`. Called on every rank.

    The coordinator reads the shards and writes, in bounded memory; nothing is gathered.

    Args:
        folder: of the run.
        store: where the checkpoint is.
        step: the checkpoint's.
        communicator: of all ranks.
        which: "ema" prefers the averages.
        asked: whether this rank has a preemption notice; asked on the coordinator, every few
            megabytes.
        config: of the model, for a file beside the weights; None: it has none.

    Returns:
        On every rank, whether it is done; else a notice came before, and nothing of it stays.

    Raises:
        StrategyError: on every rank, when the coordinator could not.
    """

    def look() -> None:
        if asked():
            raise _Asked

    failure: JSON = None
    if communicator.rank == 0:
        try:
            _write(folder, store, step, preferred="ema" if which == "ema" else None, look=look)
            if config is not None:
                write_config(config, folder.export_path.parent)
        except (CheckpointError, OSError, ValueError) as error:
            failure = str(error)
        except _Asked:
            failure = False
    failure = communicator.broadcast(failure)
    if failure is False:
        return False
    if failure is not None:
        raise StrategyError(f"the model of step {step} could not be exported: {failure}")
    return True


def _write(
    folder: RunFolder,
    store: CheckpointStore,
    step: int,
    preferred: str | None,
    look: Callable[[], None],
) -> None:
    look()
    with store.open(step) as reader:
        metadata = export_metadata(step, reader.manifest.state)
        folder.export_path.parent.mkdir(parents=True, exist_ok=True)
        export_safetensors(
            reader, folder.export_path, metadata=metadata, preferred=preferred, between=look
        )
