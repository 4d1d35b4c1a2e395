"""Where two runs part: the first step, and in it the tensor that differs most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from checkpointing import CheckpointReader, CheckpointStore, TensorSpec, different_values
from checkpointing.exporting.plan import WEIGHT_KEYS

from .outcome import Outcome

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-6
"""The largest difference that another order of sums makes in float32; see docs/guarantee.md."""

_MEAN = "exp_avg"
"""Under which key Adam keeps the mean of an element's gradient."""
_NOISE = 1e-6
"""Of the largest mean gradient: what is smaller comes from the order of sums."""
_LARGEST = 1e300

Distances = Mapping[str, float]
"""By the name of a tensor, such as "fp32/layers.0.weight": its largest difference."""


@dataclass(frozen=True, kw_only=True)
class Apart:
    """How far the tensors of one step are apart."""

    found: Distances = field(default_factory=dict)
    """Those of equal bits may be missing."""
    noise: Distances = field(default_factory=dict)
    """Weights, in elements whose gradient is rounding noise: Adam makes whole steps of it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs, side by side."""

    loss: float
    """The largest difference of the loss of any step that both have.

    Here and below: of numbers above 1 in units of their size.
    """
    parameters: float
    """The largest difference of any weight or buffer at any step that both have."""
    num_steps: int
    """Steps whose checkpoints were compared."""
    loss_step: int | None = None
    """The first step, from 1, whose loss differs by more than the tolerance."""
    step: int | None = None
    """The first step, from 1, after which a tensor differs by more than the tolerance."""
    tensor: str | None = None
    """The tensor that differs most after that step: its weights go before its buffers."""
    distances: Distances | None = None
    """All tensors that differ after that step by more than the tolerance."""
    noise: float = 0.0
    """The largest difference that was left out: of weights whose gradient is rounding noise, and of
    the buffers that follow them while the losses are equal."""

    @property
    def is_equal(self) -> bool:
        """Whether the two are the same up to the tolerance, and there was something to compare."""
        return self.num_steps > 0 and self.step is None and self.loss_step is None


def compare(left: Outcome, right: Outcome, *, tolerance: float = TOLERANCE) -> Comparison:
    """Compare two trials, step by step.

    Raises:
        DamagedCheckpointError: naming the file.
        OSError: a checkpoint cannot be read.
    """
    common = sorted({*left.steps} & {*right.steps})
    return compare_pure(
        left.losses,
        right.losses,
        common,
        lambda step: distances_at(left, right, step),
        tolerance=tolerance,
    )


def compare_pure(
    left: Mapping[int, float],
    right: Mapping[int, float],
    steps: Iterable[int],
    distances: Callable[[int], Apart],
    *,
    tolerance: float,
) -> Comparison:
    """Compare losses and tensors. Pure.

    Args:
        left: losses by step.
        right: the same of the other run.
        steps: those that both have a checkpoint of, oldest first.
        distances: how far the tensors of a step are apart.
        tolerance: what counts as equal.
    """
    apart = {step: relative(left[step], right[step]) for step in sorted({*left} & {*right})}
    loss_step = next((step for step, by in apart.items() if by > tolerance), None)
    largest, noise, first, found, number = 0.0, 0.0, None, None, 0
    for step in steps:
        number += 1
        here = distances(step)
        noise = max([noise, *here.noise.values()])
        # The statistics of a BatchNorm follow a bias before it, which has no effect on anything.
        follows = noise > tolerance and loss_step is None
        weights = {name: by for name, by in here.found.items() if is_weight(name)}
        if follows:
            noise = max([noise, *(by for name, by in weights.items() if is_buffer(name))])
            weights = {name: by for name, by in weights.items() if not is_buffer(name)}
        largest = max([largest, *weights.values()])
        if first is None and any(by > tolerance for by in weights.values()):
            first = step
            found = {name: by for name, by in here.found.items() if by > tolerance}
    return Comparison(
        loss=max(apart.values(), default=0.0),
        parameters=largest,
        num_steps=number,
        loss_step=loss_step,
        step=first,
        tensor=None if found is None else worst(found),
        distances=found,
        noise=noise if noise > tolerance else 0.0,
    )


def worst(found: Distances) -> str:
    """Return the weight that differs most; where only buffers do, such a buffer. Pure."""
    ranked = [(not is_buffer(name), by, name) for name, by in found.items()]
    return max(one for one in ranked if is_weight(one[2]))[2]


def is_weight(name: str) -> bool:
    """Return whether a tensor belongs to the model, and not to the optimizer. Pure."""
    return name.partition("/")[0] in WEIGHT_KEYS


def is_buffer(name: str) -> bool:
    """Return whether a tensor is a buffer of the model. Pure."""
    return name.startswith("buffer/")


def distance(left: float, right: float) -> float:
    """Return how far two numbers are apart; infinite where one of them is no number. Pure."""
    if left == right or (math.isnan(left) and math.isnan(right)):
        return 0.0
    apart = abs(left - right)
    return math.inf if math.isnan(apart) else apart


def relative(left: float, right: float) -> float:
    """Return the distance in units of the larger of the two, where that is above 1. Pure."""
    apart = distance(left, right)
    size = max(abs(left), abs(right))
    return apart / size if apart and 1.0 < size < math.inf else apart


def distances_at(left: Outcome, right: Outcome, step: int) -> Apart:
    """Return how far the tensors of a step are apart.

    Where the values of a tensor are larger than 1, in units of the largest.

    Raises:
        DamagedCheckpointError: naming the file.
        OSError: a checkpoint cannot be read.
    """
    stores = (CheckpointStore(one.folder / "checkpoints") for one in (left, right))
    ours, theirs = (store.open(step) for store in stores)
    with ours, theirs:
        return apart_beyond_noise(ours, theirs, different(ours, theirs))


def different(ours: CheckpointReader, theirs: CheckpointReader) -> Distances:
    """Return the tensors of two checkpoints that differ in a bit, and by how much.

    Raises:
        DamagedCheckpointError: naming the file.
        OSError: a checkpoint cannot be read.
    """
    return {one.name: one.largest for one in different_values(ours, theirs)}


def apart_beyond_noise(ours: CheckpointReader, theirs: CheckpointReader, found: Distances) -> Apart:
    """Return what differs without the elements of weights whose gradient is rounding noise.

    Args:
        ours: a checkpoint.
        theirs: another one, of the same tensors.
        found: see `different`.
    """
    raw = [name for name, by in found.items() if by > TOLERANCE and is_weight(name)]
    if not raw:
        return Apart(found=found)  # without reading what Adam keeps of every gradient
    specs = {spec.name: spec for spec in ours.manifest.specs()}
    smallest = _smallest_gradient(ours, specs.values())
    apart = {name: _apart(ours, theirs, specs[name], smallest) for name in raw}
    return Apart(
        found={**found, **{name: by for name, (by, _) in apart.items()}},
        noise={name: by for name, (_, by) in apart.items() if by},
    )


def _smallest_gradient(reader: CheckpointReader, specs: Iterable[TensorSpec]) -> float:
    """Return below what the mean gradient of an element is rounding noise; 0 without such means."""
    sizes = [_size(_values(reader, one.fqn, _MEAN)) for one in specs if one.key == _MEAN]
    return _NOISE * max(sizes, default=0.0)


def _apart(
    ours: CheckpointReader, theirs: CheckpointReader, spec: TensorSpec, smallest: float
) -> tuple[float, float]:
    """Return how far a tensor is apart, and how far in elements whose gradient is noise."""
    mine, other = (_values(reader, spec.fqn, spec.key) for reader in (ours, theirs))
    if mine.is_complex() or not spec.numel:
        return math.inf, 0.0
    apart, noise = (mine - other).abs().nan_to_num(nan=math.inf), 0.0
    if smallest and ours.has(spec.fqn, _MEAN) and theirs.has(spec.fqn, _MEAN):
        means = [_values(reader, spec.fqn, _MEAN).abs() for reader in (ours, theirs)]
        if means[0].shape == apart.shape:
            is_noise = (means[0] < smallest) & (means[1] < smallest)
            noise = _size(apart[is_noise])
            apart[is_noise] = 0.0
    return float(apart.max()) / max(1.0, min(_size(mine), _LARGEST)), noise


def _values(reader: CheckpointReader, fqn: str, key: str) -> torch.Tensor:
    value = reader.read(fqn, key, 0, reader.spec(fqn, key).numel)
    return value if value.is_complex() else value.double()


def _size(values: torch.Tensor) -> float:
    return float(values.abs().nan_to_num().max()) if values.numel() else 0.0
