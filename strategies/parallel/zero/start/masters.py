"""The fp32 masters, just after DeepSpeed has taken the model over."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ....errors import INSTALL_TESTED, ConfigError
from ..internals import Stage3, Stage12


def check_masters(
    layout: Stage12 | Stage3,
    initial: Mapping[str, torch.Tensor],
    compute_dtype: torch.dtype,
    version: str,
) -> None:
    """Prove that the pieces found hold the masters that the model was built with.

    Args:
        layout: the reader to prove.
        initial: every parameter before DeepSpeed took the model, flat, fp32, on the host.
        compute_dtype: DeepSpeed rounds the masters to it when it is built.
        version: DeepSpeed's version, for the message.

    Raises:
        ConfigError: a piece holds other values, so that reading state through it would be wrong.
    """
    for piece in layout.pieces():
        expected = initial[piece.fqn][piece.start : piece.end].to(compute_dtype).float()
        if not torch.equal(piece.of(piece.buffer).float().cpu(), expected):
            raise ConfigError(
                f"DeepSpeed {version} lays out {piece.fqn} [{piece.start}, {piece.end}) "
                "differently from what relaunch knows, so its state could not be saved correctly. "
                f"{INSTALL_TESTED}, or use --strategy fsdp."
            )


def restore_masters(layout: Stage12 | Stage3, initial: Mapping[str, torch.Tensor]) -> None:
    """Put back the bits that DeepSpeed's cast of the model has lost. Called on every rank."""
    layout.begin_load()
    for piece in layout.pieces():
        piece.of(piece.buffer).copy_(initial[piece.fqn][piece.start : piece.end])
    layout.refresh()
