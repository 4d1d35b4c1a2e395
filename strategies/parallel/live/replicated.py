"""A plain model, or one in DistributedDataParallel: every rank holds it whole."""

from __future__ import annotations

import torch
from torch import nn

from ...collectives.process_group import Ranks
from ..native.ddp import DDP
from ..native.single import Replicated, Single
from .adoption import adopt, bare_module, live_catalogue, live_groups


class LiveSingle(Single):
    """The script's own model on one rank."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
        _adopt(self, model, optimizer, ranks)


class LiveDDP(DDP):
    """The script's own replicas."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
        _adopt(self, model, optimizer, ranks)


def _adopt(
    strategy: Replicated, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    adopt(strategy, optimizer, ranks)
    strategy._model = bare_module(model)
    named = list(strategy._model.named_parameters())
    strategy._group_names = live_groups(optimizer, named)
    trained = {name for group in strategy._group_names for name in group}
    strategy.catalogue = live_catalogue(strategy._model, trained)
    strategy._named = [(name, p) for name, p in named if name in trained]
