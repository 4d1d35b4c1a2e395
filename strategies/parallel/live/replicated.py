"""A plain model, or one in DistributedDataParallel: every rank holds it whole."""

from __future__ import annotations

import torch
from torch import nn

from ...collectives.process_group import Ranks
from ..native.ddp import DDP
from ..native.single import Replicated, Single
from .adoption import adopt, live_catalogue


class _Adopted(Replicated):
    """A whole model on every rank, which the script has built itself."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        groups: list[list[str]],
        ranks: Ranks,
    ) -> None:
        adopt(self, optimizer, groups, ranks)
        self._model = model
        trained = {name for group in groups for name in group}
        self.catalogue = live_catalogue(model, trained)
        self._named = [(name, p) for name, p in model.named_parameters() if name in trained]


class LiveSingle(_Adopted, Single):
    """The script's own model on one rank."""


class LiveDDP(_Adopted, DDP):
    """The script's own replicas."""
