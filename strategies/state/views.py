"""A checkpoint seen as this model's own: taken over from another program, or its averages.

Such a checkpoint names tensors, and does not say which are trained, frozen or buffers; tied ones
may be there under any of their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from checkpointing import ModelMismatchError, TensorSpec, require_match

from ..errors import ConfigError
from ..modifiers.ema import AVERAGE
from ..parallel.catalogue import WEIGHT_KEYS
from .node_reader import NodeSource

IMPORTED = "imported"
"""Stands in the state of a checkpoint that `relaunch checkpoint import` has made."""


_OTHER_NAMES = (
    "transformers gives some tensors other names in files than in memory, and an import keeps the "
    "names: run.prepare(weights=FOLDER), in a new run folder, follows its names."
)


class ImportedWeights:
    """Reads weights by name alone, and the optimizer's state as it is."""

    def __init__(self, source: NodeSource, aliases: Mapping[str, str]) -> None:
        """Take the model's tied names, each with the one under which it is kept."""
        self._source = source
        self._specs: dict[str, TensorSpec] = {}
        for spec in source.manifest.specs():
            if spec.key in WEIGHT_KEYS:
                self._specs.setdefault(aliases.get(spec.fqn, spec.fqn), spec)

    def weight_specs(self, expected: Sequence[TensorSpec]) -> list[TensorSpec]:
        """Return the weights under the names and the keys by which the model knows them."""
        keys = {spec.fqn: spec.key for spec in expected}
        return [
            TensorSpec(fqn=fqn, key=keys.get(fqn, spec.key), shape=spec.shape, dtype=spec.dtype)
            for fqn, spec in self._specs.items()
        ]

    def read(self, fqn: str, key: str, start: int, end: int) -> torch.Tensor:
        """Return elements [start, end) of the flattened tensor, 1-D, on the CPU."""
        return self._source.read(*self._stored(fqn, key), start, end)

    def read_whole(self, fqn: str, key: str, numel: int) -> torch.Tensor:
        """Return all of a tensor, 1-D, on the CPU; see `NodeSource.read_whole`."""
        return self._source.read_whole(*self._stored(fqn, key), numel)

    def _stored(self, fqn: str, key: str) -> tuple[str, str]:
        if key not in WEIGHT_KEYS:
            return fqn, key
        spec = self._specs[fqn]
        return spec.fqn, spec.key


def require_same_model(
    expected: Sequence[TensorSpec], source: NodeSource | ImportedWeights, where: str
) -> None:
    """Refuse a checkpoint of another model.

    Raises:
        ModelMismatchError: naming what is missing, too much, or of another shape.
    """
    if isinstance(source, ImportedWeights):
        found = source.weight_specs(expected)
    else:
        found = [spec for spec in source.manifest.specs() if spec.key in WEIGHT_KEYS]
    dtypes = {spec.name: spec.dtype for spec in found}
    # Values are cast on loading, so only names and shapes must agree.
    wanted = [
        TensorSpec(fqn=s.fqn, key=s.key, shape=s.shape, dtype=dtypes.get(s.name, s.dtype))
        for s in expected
    ]
    try:
        require_match(wanted, found, where=where)
    except ModelMismatchError as error:
        if not isinstance(source, ImportedWeights):
            raise
        raise ModelMismatchError(f"{error} {_OTHER_NAMES}") from None


class AveragedWeights:
    """Reads a checkpoint's averages in place of its weights, as a `TensorSource`.

    What is not trained has no average, and is read as it is.
    """

    def __init__(self, source: NodeSource) -> None:
        """Take the checkpoint.

        Raises:
            ConfigError: it holds no average at all.
        """
        if not any(spec.key == AVERAGE for spec in source.manifest.specs()):
            raise ConfigError(
                f"step-{source.manifest.step:08d} holds no average of the weights: it was saved by "
                'a script without ema=EMA(). Use "best" or "last", or train on with it.'
            )
        self._source = source

    def read(self, fqn: str, key: str, start: int, end: int) -> torch.Tensor:
        """Return elements [start, end) of the flattened tensor, 1-D, on the CPU."""
        return self._source.read(fqn, self._stored_key(fqn, key), start, end)

    def read_whole(self, fqn: str, key: str, numel: int) -> torch.Tensor:
        """Return all of a tensor, 1-D, on the CPU; see `NodeSource.read_whole`."""
        return self._source.read_whole(fqn, self._stored_key(fqn, key), numel)

    def _stored_key(self, fqn: str, key: str) -> str:
        return AVERAGE if self._source.has(fqn, AVERAGE) else key
