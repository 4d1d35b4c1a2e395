"""What a checkpoint is made from: a strategy, or several models that a script has built itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from checkpointing import JSON, Fragment, TensorSpec

from ...collectives.replicas import Replicas
from ..catalogue import Catalogue
from ..gradients.bucket_order import BucketOrder
from .saved_state import SavedState, Scalars, TensorSource


class TrainedState(Protocol):
    """Everything of `Strategy` that reads or writes state, as `Strategy` documents it."""

    catalogue: Catalogue
    bucket_orders: Sequence[BucketOrder]

    @property
    def name(self) -> str:
        """How the model is spread, such as "ddp"."""
        ...

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Return every optimizer that steps."""
        ...

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The live parameter groups."""
        ...

    @property
    def group_names(self) -> list[list[str]]:
        """Names of the parameters of each group."""
        ...

    @property
    def optimizer_name(self) -> str:
        """For people, and compared at a resume."""
        ...

    @property
    def optimizer_library(self) -> str | None:
        """Installed package that it comes from; None: the script's own."""
        ...

    def fragments(self, *, weights_only: bool) -> list[Fragment]:
        """Return live views of this rank's share of the state. No collective."""
        ...

    def scalars(self) -> Scalars:
        """Return the rest of the optimizer's state of what this rank holds. No collective."""
        ...

    def extras(self) -> dict[str, JSON]:
        """Return what is kept beside the groups and the parameters' state."""
        ...

    def put_back_extras(self, saved: Mapping[str, Any]) -> None:
        """Put back what `extras` returned when the checkpoint was made. No collective."""
        ...

    def load(self, source: TensorSource, saved: SavedState | None) -> None:
        """Overwrite this rank's share. Called on every rank; `refresh` must follow."""
        ...

    def refresh(self) -> None:
        """Make the computing weights follow what was loaded. Called on every rank."""
        ...

    def replicas(self) -> Replicas:
        """Return the weights that other ranks hold too. No collective."""
        ...

    def weight_specs(self) -> list[TensorSpec]:
        """Return the tensors that every checkpoint of this model must hold."""
        ...
