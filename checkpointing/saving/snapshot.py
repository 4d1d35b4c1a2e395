"""The content of a checkpoint, as one value."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..format.strict_json import JSON
from ..format.tensor_spec import TensorSpec

if TYPE_CHECKING:
    from ..format.fragment import Fragment
    from .frozen_tensors import FrozenPart
    from .own_shard import OwnShard


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state at one step: what this rank writes, and what all ranks know."""

    step: int
    """The optimizer step, the same on every rank."""

    specs: Sequence[TensorSpec]
    """All tensors of the state; the coordinator's list is used."""

    fragments: "Iterable[Fragment]"
    """What this rank writes; consumed by the save. Over all ranks, every element of every tensor in
    `specs` appears exactly once. May be empty: such a rank writes no file."""

    state: Mapping[str, JSON]
    """Other state; the coordinator's is used. It must not change during the save."""

    created_by: Mapping[str, JSON]
    """Description of the writer; the coordinator's is used."""

    frozen: "FrozenPart | None" = None
    """What is kept in objects beside the checkpoints: what this rank writes to one, and what the
    checkpoint names without that anyone writes it. None: nothing is. None of it in `fragments`."""

    own_shard: "OwnShard | None" = None
    """What this rank has in the store's newest checkpoint, which a save that writes the same bytes
    names again. None: they are written every time."""

    def without_fragments(self) -> "Snapshot":
        """Return the same without its live views, which would keep their memory alive."""
        return replace(self, fragments=())
