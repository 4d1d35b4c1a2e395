"""A PEFT model with its adapter merged into the base, as a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from checkpointing import CheckpointReader, Files
from checkpointing.exporting.plan import WEIGHT_KEYS, choose_tensors
from checkpointing.storage.atomic_write import written_aside
from strategies import ConfigError

from .model_config import config_of, write_config

FOLDER_NAME = "merged"
"""Inside the folder of what is exported."""


def write_merged(
    reader: CheckpointReader,
    folder: Path,
    factory: Callable[[], nn.Module],
    *,
    preferred: str | None,
    files: Files,
) -> Path:
    """Write the base with the adapter merged into it. On the coordinator, which builds it whole.

    Args:
        reader: the checkpoint.
        folder: of what is exported; the model gets a folder in it, and replaces an older one.
        factory: of the model.
        preferred: "ema" for the averages.
        files: how the disk is reached.

    Raises:
        CheckpointError: the checkpoint is damaged, or the disk refuses.
        ConfigError: the factory made another model than the one trained.
        OSError: the disk refuses.
    """
    with torch.random.fork_rng():
        model: Any = factory()
    _load(model, reader, preferred)
    merged = model.merge_and_unload()
    path = folder / FOLDER_NAME
    with written_aside(path, files) as aside:
        files.mkdir(aside)
        if hasattr(merged, "save_pretrained"):
            merged.save_pretrained(str(aside))
        else:
            from safetensors.torch import save_model

            save_model(merged, str(aside / "model.safetensors"))
            if (config := config_of(merged)) is not None:
                write_config(config, aside)
        if files.is_dir(path):
            files.rmtree(path)
    return path


def _load(model: nn.Module, reader: CheckpointReader, preferred: str | None) -> None:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for spec in choose_tensors(reader.manifest.specs(), WEIGHT_KEYS, preferred=preferred):
        target = tensors.get(spec.fqn)
        if target is None or tuple(target.shape) != spec.shape:
            raise ConfigError(f"the factory made a model without {spec.fqn} of shape {spec.shape}.")
        values = reader.read(spec.fqn, spec.key, 0, spec.numel)
        with torch.no_grad():
            target.copy_(values.view(spec.shape))
