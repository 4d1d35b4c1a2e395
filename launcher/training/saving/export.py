"""The finished model as one plain safetensors file, or as an adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpointing import JSON, CheckpointError, CheckpointStore, Files, export_safetensors
from strategies import ConfigError, HostCommunicator, StrategyError

from ...run_folder.checkpoint_summary import export_metadata
from ...run_folder.folder import RunFolder
from .adapter import Adapter
from .merged import write_merged
from .model_config import ExportedModel, write_config


class _Asked(Exception):
    """The coordinator has a preemption notice, or too little time."""


def export_model(
    folder: RunFolder,
    store: CheckpointStore,
    step: int,
    communicator: HostCommunicator,
    *,
    which: str | None = None,
    asked: Callable[[], bool] = lambda: False,
    fits: Callable[[], bool] = lambda: True,
    model: ExportedModel | None = None,
    merged: bool = False,
) -> str | None:
    """Write the weights of a checkpoint beside `folder.export_path`. Called on every rank.

    Of a PEFT model that is its adapter, of any other all of it.

    The coordinator reads the shards and writes, in bounded memory; nothing is gathered.

    Args:
        folder: of the run.
        store: where the checkpoint is.
        step: the checkpoint's.
        communicator: of all ranks.
        which: "ema" prefers the averages.
        asked: whether this rank has a preemption notice; asked on the coordinator, every few
            megabytes.
        fits: whether there is time for an export; asked on the coordinator, before it begins.
        model: what is known of the model besides its weights.
        merged: write a PEFT model whole, with its adapter merged into the base.

    Returns:
        On every rank, what was written; None: a notice came before or the time is too short, and
        nothing of it stays.

    Raises:
        ConfigError: on every rank, when there is no adapter to merge.
        StrategyError: on every rank, when the coordinator could not.
    """

    def write() -> Path:
        if not fits():
            raise _Asked
        preferred = "ema" if which == "ema" else None
        return _write(folder, store, step, preferred, asked, model, merged=merged)

    if merged and not isinstance(model and model.adapter, Adapter):
        raise ConfigError(
            "merged=True is for a PEFT model, and this one has no adapter to merge"
            f"{_why_none(model)}. Export it without."
        )
    answer: Any = communicator.broadcast(_outcome(write) if communicator.rank == 0 else {})
    if "failure" in answer:
        raise StrategyError(f"the model of step {step} could not be exported: {answer['failure']}")
    path_text: str | None = answer.get("path")
    return path_text


def _why_none(model: ExportedModel | None) -> str:
    return f": {model.adapter}" if model is not None and isinstance(model.adapter, str) else ""


def _outcome(write: Callable[[], Path]) -> dict[str, JSON]:
    """Return where it has written, why that failed, or nothing where the ranks are to leave."""
    try:
        return {"path": str(write())}
    except (CheckpointError, ConfigError, OSError, ValueError) as error:
        return {"failure": str(error)}
    except _Asked:
        return {}


def _write(
    folder: RunFolder,
    store: CheckpointStore,
    step: int,
    preferred: str | None,
    asked: Callable[[], bool],
    model: ExportedModel | None,
    *,
    merged: bool,
) -> Path:
    def look() -> None:
        if asked():
            raise _Asked

    look()
    path = folder.export_path
    with store.open(step) as reader:
        options: dict[str, Any] = {
            "metadata": export_metadata(step, reader.manifest.state),
            "preferred": preferred,
            "between": look,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        if model is not None and merged:
            return write_merged(
                reader, path.parent, model.factory, preferred=preferred, files=Files()
            )
        if model is not None and isinstance(model.adapter, Adapter):
            return model.adapter.write(reader, path.parent, **options)
        export_safetensors(reader, path, **options)
        if model is not None and model.config is not None:
            write_config(model.config, path.parent)
    return path
