"""Weights that a script writes to, which ZeRO recomputes from its masters in the next step.

A clamp after a step, as of CLIP's temperature or of a critic's weights, would be lost without a
word. What is written in place shows by torch's count of changes; what is written past it (by
`.data`) shows by its value, which is compared in the first steps of a start: whoever writes, writes
after every step.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from ....errors import ConfigError
from ...state.optimizer_state import flat
from ..internals import Stage3, Stage12, is_held_whole

UNDONE = {
    "load_state_dict": "under ZeRO the next step recomputes the weights from its fp32 masters, "
    "so what is loaded would be lost. Pass run.prepare(weights=...), or load it in the function "
    "that is passed as model=."
}
"""Methods of the model that are refused, and why."""
COMPARED_STEPS = 3


class WrittenWeights:
    """What the computing weights should be still."""

    def __init__(
        self,
        layout: Stage12 | Stage3,
        model: nn.Module,
        trained: Collection[str],
        strategy: str,
    ) -> None:
        """Take the model as it is. No collective.

        Args:
            layout: where the masters are.
            model: with the weights that are computed with.
            trained: names of its parameters that have a master. Up to stage 2 the others are the
                script's to write; in stage 3 every step gathers them anew from shares.
            strategy: its name.
        """
        self._layout, self._strategy = layout, strategy
        self._named: list[tuple[str, Any]] = [
            (name, one)
            for name, one in model.named_parameters()
            if name in trained or isinstance(layout, Stage3)
        ]
        self._compared = 0
        self.accept()

    def accept(self) -> None:
        """Take the weights as they are: the engine has just set them."""
        self._versions = [parameter._version for _, parameter in self._named]

    def require_none(self) -> None:
        """Look for weights that were written to since, before a step. No collective.

        Raises:
            ConfigError: there are some; in `.data` on this rank.
        """
        versions = [parameter._version for _, parameter in self._named]
        if versions != self._versions:
            pairs = zip(self._named, versions, self._versions, strict=True)
            self._refuse(next(name for (name, _), now, before in pairs if now != before))
        if self._compared < COMPARED_STEPS:
            self._compared += 1
            self._compare()

    def _compare(self) -> None:
        live = dict(self._named)
        for piece in self._layout.pieces():
            weight = live[piece.fqn]
            if isinstance(self._layout, Stage3) and not is_held_whole(weight):
                continue
            own = flat(weight)[piece.start : piece.end]
            master = piece.of(piece.buffer).to(device=own.device, dtype=own.dtype)
            if not torch.equal(master, own):
                self._refuse(piece.fqn)
        if isinstance(self._layout, Stage3):
            self._compare_untrained(self._layout)

    def _compare_untrained(self, layout: Stage3) -> None:
        for name, weight in self._named:
            if not weight.requires_grad and is_held_whole(weight):
                start, end, share = layout.frozen_range(weight)
                if not torch.equal(share.to(weight.device), flat(weight)[start:end]):
                    self._refuse(name)

    def _refuse(self, name: str) -> None:
        raise ConfigError(
            f"{name} was written to after a step, and strategy={self._strategy} recomputes it from "
            "what the ranks keep of it in the next one: what was written would be lost. Limit a "
            "weight where it is used, in the forward, as in self.logit_scale.clamp(max=4.6), or "
            "use --strategy ddp or fsdp."
        )
