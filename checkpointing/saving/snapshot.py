"""What a checkpoint is made of, as one value."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..format.strict_json import JSON
from ..format.tensor_spec import TensorSpec

if TYPE_CHECKING:
    from ..format.fragment import Fragment


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state at one step: what this rank writes of it, and what all ranks know."""

    step: int
    """The optimizer step, the same on every rank."""

    specs: Sequence[TensorSpec]
    """All tensors of the state; the coordinator's list counts."""

    fragments: "Iterable[Fragment]"
    """What this rank writes; used up by the save. Over all ranks every element of every spec'd
    tensor appears exactly once. May be empty: such a rank writes no file."""

    state: Mapping[str, JSON]
    """Anything else to be stored; the coordinator's counts. Not to be changed meanwhile."""

    created_by: Mapping[str, JSON]
    """What the caller says about itself; the coordinator's counts."""

    def without_fragments(self) -> "Snapshot":
        """Return the same without its live views, which would keep their memory alive."""
        return replace(self, fragments=())
