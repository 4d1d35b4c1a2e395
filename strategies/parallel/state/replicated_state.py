"""State that every rank holds whole: written and read in equal shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from checkpointing import Fragment, TensorSpec, stripe

from ..catalogue import Catalogue
from .optimizer_state import copy_flat, create_state, flat, fragment_of, kept_state, state_spec
from .saved_state import SavedState, TensorSource


def replicated_tensors(
    catalogue: Catalogue,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    weights_only: bool,
) -> list[tuple[TensorSpec, torch.Tensor]]:
    """Return every parameter and optimizer state tensor with its spec, in a canonical order."""
    tensors: list[tuple[TensorSpec, torch.Tensor]] = []
    for name, parameter in model.named_parameters():
        if name in catalogue.frozen:
            tensors.append((catalogue.frozen[name], parameter))
            continue
        spec = catalogue.trainable[name]
        tensors.append((spec, parameter))
        if weights_only:
            continue
        kept = kept_state(optimizer, parameter, name, whole=True)
        state = sorted((kept.tensors | kept.others).items())
        tensors += [
            (replace(state_spec(spec, key, t.dtype), shape=tuple(t.shape)), t) for key, t in state
        ]
    return tensors


def striped(
    tensors: Sequence[tuple[TensorSpec, torch.Tensor]], rank: int, world_size: int
) -> list[Fragment]:
    """Return this rank's share of replicated tensors, balanced by bytes."""
    sizes_bytes = [spec.size_bytes for spec, _ in tensors]
    itemsizes_bytes = [spec.itemsize for spec, _ in tensors]
    return [
        fragment_of(tensors[index][0], start, end, flat(tensors[index][1])[start:end])
        for index, start, end in stripe(
            sizes_bytes, rank, world_size, itemsizes_bytes=itemsizes_bytes
        )
    ]


def load_replicated(
    catalogue: Catalogue,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    source: TensorSource,
    saved: SavedState | None,
) -> None:
    """Read every parameter whole, and its optimizer state where there is some.

    Called on every rank.
    """
    for name, parameter in model.named_parameters():
        spec = catalogue.frozen.get(name) or catalogue.trainable[name]
        copy_flat(parameter, source.read_whole(name, spec.key, spec.numel))
        if name in catalogue.frozen or saved is None:
            continue
        created = create_state(optimizer, parameter, saved.get(name), spec)
        for key, tensor in created.items():
            copy_flat(tensor, source.read_whole(name, key, tensor.numel()))
