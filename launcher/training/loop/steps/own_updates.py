"""What a script does itself to the weights or with the optimizer, which the run updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from strategies import ConfigError, Strategy
from strategies.modifiers.ema import local_part

from .step import Step

_SAMPLED = 64
"""Elements of each weight that are compared: who initializes or loads one writes to all."""


class OwnUpdates:
    """Sees weights that are changed ahead of the loop, and steps of the optimizer in it."""

    def __init__(self, strategy: Strategy, open_step: Callable[[], Step | None]) -> None:
        """Take a strategy whose weights are those of its checkpoint, or new. No collective.

        Args:
            strategy: of the run.
            open_step: returns the step that the script has now.
        """
        self._named = strategy.live_weights()
        self._begun = self._marks()
        for optimizer in strategy.optimizers:
            if isinstance(optimizer, torch.optim.Optimizer):
                optimizer.register_step_pre_hook(_refusal(open_step))

    def require_as_begun(self) -> None:
        """Look at the weights when the loop begins. No collective.

        Raises:
            ConfigError: the script has changed one.
        """
        for (name, _), before, now in zip(self._named, self._begun, self._marks(), strict=True):
            if not torch.equal(before, now):
                raise ConfigError(
                    f"{name} was changed between run.prepare and the training loop. A resume "
                    "would do this too, and overwrite the weights of its checkpoint. Do "
                    "it in the function that is passed as model=, or load a file by "
                    "run.prepare(weights=...). job.test puts the best weights into the model: call "
                    "it after the loop."
                )

    def _marks(self) -> list[torch.Tensor]:
        return [_some_of(one) for _, one in self._named]


def _some_of(weight: torch.Tensor) -> torch.Tensor:
    flat = local_part(weight).detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLED)].nan_to_num().clone()


def _refusal(open_step: Callable[[], Step | None]) -> Callable[..., None]:
    def refuse(*_: Any) -> None:
        if (step := open_step()) is None or not step.is_updating:
            raise ConfigError(
                "the script has called step() of the optimizer. The run does that, once after the "
                "last micro-batch of each step, with the mean gradient of all ranks: leave "
                "optimizer.step() and optimizer.zero_grad() out of the loop."
            )

    return refuse
