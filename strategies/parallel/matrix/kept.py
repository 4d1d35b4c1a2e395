"""The state of an optimizer that steps some parameters whole: saved as any other, and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import torch

from checkpointing import Fragment, TensorSpec

from ..state.optimizer_state import (
    copy_flat,
    create_state,
    flat,
    fragment_of,
    kept_state,
    state_spec,
)
from ..state.saved_state import SavedState, Scalars, TensorSource
from .owned_steps import Held

ShareOf = Callable[[Held, int, int], tuple[int, int]]
"""Returns this rank's share of elements [start, end) that other ranks may hold too."""


def kept_fragments(
    held: Iterable[Held],
    optimizer: torch.optim.Optimizer,
    specs: Mapping[str, TensorSpec],
    share_of: ShareOf,
) -> Iterator[Fragment]:
    """Yield the state tensors that this rank is to write. No collective."""
    for one in held:
        kept = kept_state(optimizer, one.owner, one.name, whole=one.is_whole)
        for key, tensor in sorted((kept.tensors | kept.others).items()):
            spec = state_spec(specs[one.name], key, tensor.dtype)
            first, last = one.start, one.end
            if one.is_whole:
                spec, last = replace(spec, shape=tuple(tensor.shape)), tensor.numel()
            start, end = share_of(one, first, last)
            if start < end:
                yield fragment_of(spec, start, end, flat(tensor)[start - first : end - first])


def kept_values(held: Iterable[Held], optimizer: torch.optim.Optimizer) -> Scalars:
    """Return the rest of the state of what this rank steps. No collective."""
    found = {
        one.name: kept_state(optimizer, one.owner, one.name, whole=one.is_whole).values
        for one in held
    }
    return {name: values for name, values in found.items() if values}


def load_kept(
    held: Iterable[Held],
    optimizer: torch.optim.Optimizer,
    specs: Mapping[str, TensorSpec],
    source: TensorSource,
    saved: SavedState,
) -> None:
    """Replace the state of what this rank steps by what a checkpoint has of it. No collective.

    Raises:
        ConfigError: state of another shape than the parameter's, where the parameter is cut.
    """
    for one in held:
        created = create_state(optimizer, one.owner, saved.get(one.name), specs[one.name])
        for key, tensor in created.items():
            end = tensor.numel() if one.is_whole else one.end
            copy_flat(tensor, source.read(one.name, key, one.start, end))
