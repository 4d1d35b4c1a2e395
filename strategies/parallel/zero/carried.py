"""Steps of the user's optimizer beside DeepSpeed's flat buffers, where they cannot be cut.

DeepSpeed is given an optimizer that does nothing itself: in its step the masters and gradients in
the flat buffer go to those who own the parameters, and the new masters come back. What DeepSpeed
does before and after a step stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from checkpointing import TensorSpec

from ...collectives.process_group import Ranks
from ...errors import INSTALL_TESTED, ConfigError
from ..matrix.owned_steps import OwnedSteps, Ring, Share
from .internals import Layout, Piece


class Carrier(torch.optim.Optimizer):
    """What DeepSpeed takes for the optimizer: one group of all parameters, so one flat buffer."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(list(parameters), {"lr": 0.0})
        self.carry: Callable[[], None] | None = None

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Have the masters updated from the gradients in the flat buffer. Called on every rank."""
        assert self.carry is not None
        self.carry()


def in_one_step(config: dict[str, Any], num_elements: int) -> dict[str, Any]:
    """Return a configuration of DeepSpeed with which its stage 3 steps all parameters at once."""
    zero = {**config["zero_optimization"], "sub_group_size": num_elements + 1}
    return {**config, "zero_optimization": zero}


def owned_steps(
    layout: Layout,
    specs: Mapping[str, TensorSpec],
    whole: frozenset[str],
    ranks: Ranks,
    *,
    device: torch.device,
) -> OwnedSteps:
    """Return who owns the parameters in DeepSpeed's flat buffer. Called on every rank.

    Args:
        layout: of the engine, which was given a `Carrier`.
        specs: of the trainable parameters, in the model's order.
        whole: names of those that are stepped whole.
        ranks: all of the run.
        device: where the masters are.

    Raises:
        ConfigError: DeepSpeed has made several buffers, which it steps one by one.
    """
    pieces = {piece.fqn: piece for piece in layout.pieces()}
    if len({id(piece.buffer) for piece in pieces.values()}) > 1:
        raise ConfigError(
            "DeepSpeed steps the parameters of this model in several parts, and this optimizer "
            f"has to step them together. {INSTALL_TESTED}, or use --strategy fsdp."
        )
    shares = [_share_of(spec, pieces.get(name), device) for name, spec in specs.items()]
    ring = Ring(None, range(ranks.world_size), ranks.rank)
    return OwnedSteps(shares, whole, ring, ranks, device=device)


def _share_of(spec: TensorSpec, piece: Piece | None, device: torch.device) -> Share:
    shape = tuple(spec.shape)
    if piece is None:
        nothing = torch.empty(0, device=device)
        return Share(name=spec.fqn, shape=shape, start=0, end=0, weight=lambda: nothing)
    weight = partial(piece.of, piece.buffer)
    return Share(name=spec.fqn, shape=shape, start=piece.start, end=piece.end, weight=weight)


def gradients_of(
    layout: Layout, names: Sequence[str], device: torch.device
) -> dict[str, torch.Tensor]:
    """Return this rank's pieces of the gradients, flat, within a step; empty where it has none."""
    nothing = torch.empty(0, device=device)
    found = dict.fromkeys(names, nothing)
    for piece in layout.pieces():
        if piece.fqn in found and piece.buffer.grad is not None:
            found[piece.fqn] = piece.of(piece.buffer.grad)
    return found
