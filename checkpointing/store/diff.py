"""In what two checkpoints differ: tensors, their values, and what else they keep."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ..format.strict_json import JSON, canonical_text
from ..format.tensor_spec import TensorSpec
from ..reading.reader import CheckpointReader

if TYPE_CHECKING:
    import torch

_PIECE_BYTES = 8 * 1024 * 1024

Path: TypeAlias = tuple[str, ...]
"""The names that lead to a value in nested JSON objects; a name may itself hold a dot."""


@dataclass(frozen=True, kw_only=True)
class SpecDifference:
    """A tensor that only one of two checkpoints has, or has in another shape or dtype."""

    name: str
    left: TensorSpec | None
    right: TensorSpec | None


@dataclass(frozen=True, kw_only=True)
class ValueDifference:
    """A tensor of one shape and dtype whose elements are not the same bits."""

    name: str
    num_elements: int
    """Elements whose bits differ."""
    largest: float
    """The largest absolute difference, computed in float64; inf if one of the two is NaN."""


@dataclass(frozen=True, kw_only=True)
class StateDifference:
    """A place in the state, such as "data.epoch", with its JSON on each side; None: not there."""

    path: str
    left: JSON
    right: JSON


def different_specs(
    left: Sequence[TensorSpec], right: Sequence[TensorSpec]
) -> list[SpecDifference]:
    """Return the tensors that are not in both under the same shape and dtype. Pure."""
    lefts, rights = ({spec.name: spec for spec in side} for side in (left, right))
    return [
        SpecDifference(name=name, left=lefts.get(name), right=rights.get(name))
        for name in dict.fromkeys([*lefts, *rights])
        if lefts.get(name) != rights.get(name)
    ]


def different_values(left: CheckpointReader, right: CheckpointReader) -> Iterator[ValueDifference]:
    """Yield the tensors that both have alike, and whose values differ.

    Reads a few megabytes at a time. Torch is imported where the first difference is found: that
    two checkpoints are equal is shown without it.

    Raises:
        DamagedCheckpointError: Naming the file and the byte range.
    """
    rights = {spec.name: spec for spec in right.manifest.specs()}
    for spec in left.manifest.specs():
        if rights.get(spec.name) == spec and not left.shares(right, spec.fqn, spec.key):
            difference = _compare(left, right, spec)
            if difference.num_elements:
                yield difference


def different_states(left: JSON, right: JSON) -> list[StateDifference]:
    """Return the places at which two states differ, in order of their paths. Pure."""
    lefts, rights = dict(flatten(left)), dict(flatten(right))
    return [
        StateDifference(path=".".join(path), left=lefts.get(path), right=rights.get(path))
        for path in sorted({*lefts, *rights})
        # As text: in Python 1, 1.0 and true are equal.
        if _text_at(path, lefts) != _text_at(path, rights)
    ]


def flatten(value: JSON, path: Path = ()) -> Iterator[tuple[Path, JSON]]:
    """Yield (path, value) for everything that is not an object with names. Pure."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flatten(item, (*path, name))
    else:
        yield path, value


def _text_at(path: Path, leaves: Mapping[Path, JSON]) -> str:
    return canonical_text(leaves[path]) if path in leaves else ""


def _compare(left: CheckpointReader, right: CheckpointReader, spec: TensorSpec) -> ValueDifference:
    num_elements, largest = 0, 0.0
    length = max(1, _PIECE_BYTES // spec.itemsize)
    for start in range(0, spec.numel, length):
        end = min(start + length, spec.numel)
        ours, theirs = (side.read_raw(spec.fqn, spec.key, start, end) for side in (left, right))
        if ours != theirs:
            count, distance = _measure(ours, theirs, spec)
            num_elements, largest = num_elements + count, max(largest, distance)
    return ValueDifference(name=spec.name, num_elements=num_elements, largest=largest)


def _measure(ours: bytearray, theirs: bytearray, spec: TensorSpec) -> tuple[int, float]:
    import torch

    first, second = (torch.frombuffer(raw, dtype=torch.uint8) for raw in (ours, theirs))
    differs = (first.view(-1, spec.itemsize) != second.view(-1, spec.itemsize)).any(dim=1)
    a, b = (_as_float64(raw, spec)[differs] for raw in (first, second))
    # Two infinities, or two NaNs of different bits, are no distance apart.
    is_same = (a == b) | (a.isnan() & b.isnan())
    distance = torch.where(is_same, 0.0, (a - b).abs())
    largest = distance.nan_to_num(nan=float("inf"), posinf=float("inf")).max()
    return int(differs.sum()), float(largest)


def _as_float64(raw: "torch.Tensor", spec: TensorSpec) -> "torch.Tensor":
    import torch

    from ..format.fragment import torch_dtype

    tensor = raw.view(torch_dtype(spec.dtype))
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
