"""A model that the script has given to fully_shard."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from ...collectives.process_group import Ranks
from ...errors import ConfigError
from ..native.fsdp import FSDP
from ..native.scalar_parameters import ScalarParameters
from .adoption import adopt, live_catalogue

_KNOWN = ((Shard(0),), (Replicate(), Shard(0)))


class LiveFSDP(FSDP):
    """The script's own shards of rows, over all ranks or the same on every node."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        groups: list[list[str]],
        ranks: Ranks,
    ) -> None:
        """Read how it is sharded. No collective.

        Raises:
            ConfigError: in a way that is not known here, or not over all ranks.
        """
        adopt(self, optimizer, groups, ranks)
        self._model = model
        self._parameters = list(self._model.named_parameters())
        for name, parameter in self._parameters:
            _require_rows(name, parameter, ranks)
        self._mesh = self._parameters[0][1].device_mesh  # type: ignore[attr-defined]
        self._replicas = self._mesh.size(0) if self._mesh.ndim == 2 else 1
        self._scalars = ScalarParameters(self._model, self._mesh)
        trained = {name for group in groups for name in group}
        self.catalogue = live_catalogue(self._model, trained)
        self._named = [(name, p) for name, p in self._parameters if name in trained]


def _require_rows(name: str, parameter: torch.Tensor, ranks: Ranks) -> None:
    if not isinstance(parameter, DTensor):
        raise ConfigError(
            f"parameter {name} is not sharded, and others of the model are: which rank would save "
            "it is not known. Apply fully_shard to the whole model, without ignored_params."
        )
    if parameter.placements not in _KNOWN:
        raise ConfigError(
            f"parameter {name} is placed as {parameter.placements}; known here are rows over all "
            "ranks, Shard(0), and rows that every node has, (Replicate(), Shard(0)). Apply "
            "fully_shard without shard_placement_fn= and without tensor parallelism."
        )
    if parameter.device_mesh.size() != ranks.world_size:
        raise ConfigError(
            f"parameter {name} is sharded over {parameter.device_mesh.size()} of "
            f"{ranks.world_size} ranks; a save needs all. Give fully_shard a mesh of all ranks."
        )
