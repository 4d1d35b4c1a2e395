"""The optimizer state of DeepSpeed's flat buffers, created before a checkpoint is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from checkpointing import JSON, TensorSpec

from ...errors import ConfigError
from ..state.optimizer_state import create_state
from ..state.saved_state import SavedParameter, SavedState
from .internals import Piece


def create_states(
    pieces: Iterable[Piece],
    optimizer: torch.optim.Optimizer,
    saved: SavedState,
    specs: Mapping[str, TensorSpec],
) -> dict[int, dict[str, torch.Tensor]]:
    """Return zeroed state, by id, of each flat buffer of which a piece has some.

    Raises:
        ConfigError: parameters of one buffer have different state.
    """
    wanted: dict[int, tuple[Piece, SavedParameter | None]] = {}
    for piece in pieces:
        first, known = wanted.setdefault(id(piece.buffer), (piece, saved.get(piece.fqn)))
        if _as_one(known) != _as_one(saved.get(piece.fqn)):
            raise ConfigError(
                f"{piece.fqn} has optimizer state {_as_one(saved.get(piece.fqn))}, and "
                f"{first.fqn} of its group has {_as_one(known)}. ZeRO keeps one counter a "
                "group; put such parameters into groups of their own, or resume with "
                "--strategy ddp or fsdp."
            )
    return {
        number: create_state(optimizer, piece.buffer, known, specs[piece.fqn])
        for number, (piece, known) in wanted.items()
    }


def _as_one(saved: SavedParameter | None) -> tuple[dict[str, str], dict[str, JSON]]:
    """Return what must be the same for all parameters of a flat buffer: dtypes, and values."""
    if saved is None:
        return {}, {}
    return {key: spec.dtype for key, spec in sorted(saved.tensors.items())}, dict(saved.values)
