"""The configuration of a model that has one, beside its exported weights.

A model of transformers, and many that are made alike, keep what they were built from as `config`.
With it in a file `from_pretrained` reads an exported folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from checkpointing import JSON
from strategies import TransformersNames

from ...run_folder.plain_files import replace_text
from ..recipe.asked import layers_of
from .adapter import Adapter, adapter_of

NAME = "config.json"


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What an export needs to know of a model besides its weights."""

    factory: Callable[[], nn.Module]
    config: dict[str, JSON] | None
    """Of the model, for a file beside the weights; None: it has none."""
    adapter: Adapter | str | None
    """As `adapter_of`."""


class WithConfig:
    """A model's factory that remembers of what it has made what a strategy then hides."""

    def __init__(self, factory: Callable[[], nn.Module], *, reads_files: bool) -> None:
        """Take the factory, and whether weights of files are to be read into its model."""
        self._factory = factory
        self._reads_files = reads_files
        self.names: TransformersNames | None = None
        """How a model of transformers is named in files."""
        self.config: dict[str, JSON] | None = None
        """As `config_of`: read before a strategy wraps or shards the model."""
        self.adapter: Adapter | str | None = None
        """As `adapter_of`."""
        self.layers: dict[str, JSON] = {}
        """As `layers_of`: before a strategy wraps them."""

    @property
    def exported(self) -> ExportedModel:
        """What an export needs to know of the model; once it was made."""
        return ExportedModel(factory=self._factory, config=self.config, adapter=self.adapter)

    def __call__(self) -> nn.Module:
        """Make the model."""
        model = self._factory()
        self.config = config_of(model)
        self.adapter = adapter_of(model)
        self.layers = layers_of(model)
        self.names = TransformersNames.of(model) if self._reads_files else None
        return model


def config_of(model: nn.Module) -> dict[str, JSON] | None:
    """Return the configuration of a model; None: it has none that JSON can hold.

    The class is named as `save_pretrained` does it, and the dtype is that of the exported masters.
    """
    config = _as_json(getattr(model, "config", None))
    if config is None:
        return None
    config["architectures"] = config.get("architectures") or [type(model).__name__]
    for name in ("dtype", "torch_dtype"):
        if name in config:
            config[name] = "float32"
    return config


def write_config(config: dict[str, JSON], folder: Path) -> None:
    """Write it into an exported folder, whole or not at all.

    Raises:
        OSError: the disk refuses.
    """
    replace_text(folder / NAME, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _as_json(config: Any) -> dict[str, JSON] | None:
    to_dict, to_json = (getattr(config, n, None) for n in ("to_dict", "to_json_string"))
    if not callable(to_dict):
        return None
    try:
        config = json.loads(to_json() if callable(to_json) else json.dumps(to_dict()))
    except (TypeError, ValueError):
        return None
    return config if isinstance(config, dict) else None
