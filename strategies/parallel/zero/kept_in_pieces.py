"""What a checkpoint gets and gives under ZeRO: pieces of DeepSpeed's flat buffers."""

from __future__ import annotations

from typing import ClassVar

import torch

from checkpointing import Fragment, torch_dtype

from ...collectives.replicas import Replicas
from ..catalogue import persistent_buffers
from ..matrix.kept import kept_fragments, kept_values, load_kept
from ..matrix.owned_steps import OwnedSteps
from ..native.engine import load_buffers
from ..state.optimizer_state import fragment_of, kept_state, state_spec, whole
from ..state.saved_state import SavedState, Scalars, TensorSource
from ..strategy import Strategy
from .buffer_states import create_states
from .frozen_parameters import FrozenParameters
from .internals import Stage3, Stage12
from .weights.written import WrittenWeights


class KeptInPieces(Strategy):
    """A strategy whose masters and optimizer state are in flat buffers."""

    stage: ClassVar[int]
    _layout: Stage12 | Stage3
    _frozen: FrozenParameters
    _owned_steps: OwnedSteps | None = None
    _written: WrittenWeights | None = None

    def fragments(self, *, weights_only: bool) -> list[Fragment]:
        """Return the pieces of the flat buffers that this rank holds."""
        found: list[Fragment] = []
        for piece in self._layout.pieces():
            spec = self.catalogue.trainable[piece.fqn]
            start, end = piece.start, piece.end
            found.append(fragment_of(spec, start, end, piece.of(piece.buffer)))
            if weights_only or self._owned_steps is not None:
                continue
            kept = kept_state(self._optimizer, piece.buffer, piece.fqn)
            found += [
                fragment_of(state_spec(spec, key, t.dtype), start, end, piece.of(t))
                for key, t in sorted(kept.tensors.items())
            ]
        if self._owned_steps is not None and not weights_only:
            held, specs = self._owned_steps.held(), self.catalogue.trainable
            found += kept_fragments(held, self._optimizer, specs, lambda _, *share: share)
        found += self._frozen.fragments(self.ranks.rank, self.ranks.world_size)
        if self.ranks.is_coordinator:
            buffers = persistent_buffers(self._model)
            found += [
                whole(spec, buffers[name].to(torch_dtype(spec.dtype)))
                for name, spec in self.catalogue.buffers.items()
                if spec.numel
            ]
        return found

    def scalars(self) -> Scalars:
        """Return the rest of the state of the parameters of which this rank holds a piece."""
        if self._owned_steps is not None:
            return kept_values(self._owned_steps.held(), self._optimizer)
        found = {
            p.fqn: kept_state(self._optimizer, p.buffer, p.fqn).values
            for p in self._layout.pieces()
        }
        return {fqn: state for fqn, state in found.items() if state}

    def load(self, source: TensorSource, saved: SavedState | None) -> None:
        """Read the pieces that this rank holds."""
        self._layout.begin_load()
        # What the ranks read together comes first: what a rank may refuse alone comes after it.
        self._frozen.load(source)
        load_buffers(self._model, self.catalogue, source)
        owned = self._owned_steps
        if owned is not None and saved is not None:
            specs = self.catalogue.trainable
            load_kept(owned.held(), self._optimizer, specs, source, saved)
        states: dict[int, dict[str, torch.Tensor]] = {}
        if saved is not None and owned is None:
            states = create_states(
                self._layout.pieces(), self._optimizer, saved, self.catalogue.trainable
            )
        for piece in self._layout.pieces():
            values = source.read(piece.fqn, "fp32", piece.start, piece.end)
            piece.of(piece.buffer).copy_(values)
            for key, tensor in states.get(id(piece.buffer), {}).items():
                piece.of(tensor).copy_(source.read(piece.fqn, key, piece.start, piece.end))

    def _weights_alike(self) -> Replicas:
        """Return the weights that are computed with, which all ranks hold up to stage 2."""
        if self.stage == 3:
            return Replicas()
        return Replicas(list(self._model.named_parameters()))

    def refresh(self) -> None:
        """Make the computing weights follow the masters. Called on every rank."""
        self._layout.refresh()
        if self._written is not None:
            self._written.accept()
