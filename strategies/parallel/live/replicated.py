"""A plain model, or one in DistributedDataParallel: every rank holds it whole."""

from __future__ import annotations

import torch
from torch import nn

from ...collectives.process_group import Ranks
from ..native.ddp import DDP
from ..native.single import Replicated, Single
from .adoption import adopt, live_catalogue


class LiveSingle(Single):
    """The script's own model on one rank."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        groups: list[list[str]],
        ranks: Ranks,
    ) -> None:
        _adopt(self, model, optimizer, groups, ranks)


class LiveDDP(DDP):
    """The script's own replicas."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        groups: list[list[str]],
        ranks: Ranks,
    ) -> None:
        _adopt(self, model, optimizer, groups, ranks)


def _adopt(
    strategy: Replicated,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    groups: list[list[str]],
    ranks: Ranks,
) -> None:
    adopt(strategy, optimizer, groups, ranks)
    strategy._model = model
    trained = {name for group in groups for name in group}
    strategy.catalogue = live_catalogue(model, trained)
    strategy._named = [(name, p) for name, p in model.named_parameters() if name in trained]
