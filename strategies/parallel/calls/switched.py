"""Parameters that a script freezes, or unfreezes, while it trains.

A network that is frozen in every second step, as of a GAN, gets no gradient there. Ranks that sum
gradients would wait for it; fully_shard computes its gradient even so; DeepSpeed updates it with a
gradient of zero, which moves it by its momentum. What the model's function has frozen is in no
optimizer, so unfreezing it in the loop trains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ...errors import ConfigError, some_of

_SHOWN = 3


class SwitchedParameters:
    """Which parameters require a gradient, as the model was built."""

    def __init__(self, named: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take a model's parameters before the first forward."""
        named = list(named)
        self._trained = [(name, one) for name, one in named if one.requires_grad]
        self._frozen = [(name, one) for name, one in named if not one.requires_grad]

    def require_none(
        self,
        where: str,
        *,
        may_freeze: bool,
        gathered: Iterable[tuple[str, torch.Tensor]] = (),
    ) -> None:
        """Look whether each still requires a gradient, or none, before a backward. No collective.

        Args:
            where: begins the sentence.
            may_freeze: whether what gets no gradient is left alone.
            gathered: what the script may have found in the place of what is trained.

        Raises:
            ConfigError: one was switched.
        """
        thawed = [name for name, one in self._frozen if one.requires_grad]
        if thawed:
            raise ConfigError(
                f"{where}: the script has set requires_grad=True on {some_of(thawed, _SHOWN)}, "
                "which the function passed as model= has frozen: the optimizer does not have it. "
                "Leave it trainable there; to train it from a later step on pass "
                "run.prepare(unfreeze=...)."
            )
        if may_freeze:
            return
        seen = (*self._trained, *gathered)
        frozen = list(dict.fromkeys(name for name, one in seen if not one.requires_grad))
        if frozen:
            raise ConfigError(
                f"{where}: the script has set requires_grad=False on {some_of(frozen, _SHOWN)}, "
                "and each step of a run trains all that the function passed as model= has left "
                "trainable. Networks that are updated in turns (a GAN, an actor and a critic) "
                "belong into your own loop, with Resumable(model={...}, optimizer={...}, "
                "loader=...) around it. What is never trained is frozen in that function; what is "
                "trained from a later step on is named in run.prepare(unfreeze=...)."
            )
