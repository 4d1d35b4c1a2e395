"""What a script changes in its own loop beside weights: groups of its optimizers, its models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from strategies import ConfigError
from strategies.modifiers.loop_attributes import LoopAttributes
from strategies.parallel.live.several import by_name


class OwnChanges:
    """Refuses what no checkpoint could hold, and knows what one has to hold. No collective."""

    def __init__(
        self, optimizers: Iterable[torch.optim.Optimizer], models: Mapping[str, nn.Module]
    ) -> None:
        """Take what the script has given, as it is at the start."""
        # DeepSpeed's stage 3 keeps its groups empty, but for the step of each.
        self._held = {id(one): held for one in optimizers if any(held := _held(one))}
        self.attributes = LoopAttributes.of_own_loop(models)

    def require_same_groups(self, optimizer: torch.optim.Optimizer) -> None:
        """Look at an optimizer that is to step.

        Raises:
            ConfigError: it has got other groups or parameters.
        """
        before, now = self._held.get(id(optimizer)), _held(optimizer)
        if before not in (None, now):
            raise ConfigError(
                f"{type(optimizer).__name__} was given other parameters in the loop (groups of "
                f"{before} parameters before, {now} now): a start that resumes would build it "
                "without them. Give it all groups before Resumable, freeze those that come later "
                "by requires_grad_(False), and unfreeze them in the loop."
            )


def bare_models(model: Any) -> dict[str, nn.Module]:
    """Return the script's modules by name, without what it has wrapped around them. Pure."""
    several = by_name(model, "model")
    return {
        name: bare
        for name, one in ({"": model} if several is None else several).items()
        if isinstance(bare := _unwrapped(one), nn.Module)
    }


def _unwrapped(model: Any) -> Any:
    is_wrapper = isinstance(model, DistributedDataParallel) or hasattr(
        model, "set_gradient_accumulation_boundary"
    )
    return model.module if is_wrapper else model


def _held(optimizer: torch.optim.Optimizer) -> list[int]:
    return [len(group["params"]) for group in optimizer.param_groups]
