"""From two trials to what was seen of them. Pure, but for the checkpoints that are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from ..trials.compare import Comparison, is_weight, relative
from ..trials.outcome import Outcome
from .causes import Seen

_COLLECTIVE = "collective of its own"
_WRAPPER = "not computed through job.model"
_SHARDED = ("fsdp", "zero1", "zero2", "zero3")
_ALIKE = 1e-5
"""Of the losses of a micro-batch, in units of their size: rounding is smaller."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the chain of data, loss and update breaks first."""

    step: int
    """From 0: the step whose data, loss or update differs first."""
    data: bool = False
    counts: bool = False
    loss: bool = False
    first_loss: bool = False
    tensors: bool = False


def place_of(left: Outcome, right: Outcome, found: Comparison) -> Place | None:
    """Return where two trials part; None where they do not."""
    known = sorted({*left.micro_batches} & {*right.micro_batches})
    steps = sorted({step for step, _ in known} | ({found.step - 1} if found.step else set()))
    for step in steps:
        place = _place_at(step, left, right, found)
        if place.data or place.counts or place.loss or place.tensors:
            return place
    return None


def _place_at(step: int, left: Outcome, right: Outcome, found: Comparison) -> Place:
    numbers = sorted({n for s, n in left.micro_batches if s == step})
    pairs = [
        (left.micro_batches[step, n], right.micro_batches[step, n])
        for n in numbers
        if (step, n) in right.micro_batches
    ]
    apart = [
        one.loss is not None and other.loss is not None and not _is_alike(one.loss, other.loss)
        for one, other in pairs
    ]
    return Place(
        step=step,
        data=any(one.batch != other.batch for one, other in pairs),
        counts=any(one.count != other.count for one, other in pairs),
        loss=any(apart),
        # On the first turn of rank 0 nothing has run on yet, whatever else it computes.
        first_loss=bool(apart) and apart[0],
        tensors=found.step == step + 1,
    )


def _is_alike(left: float, right: float) -> bool:
    return relative(left, right) <= _ALIKE


def seen_in(left: Outcome, right: Outcome, found: Comparison) -> Seen:
    """Return what was seen of a trial beside the first one."""
    place = place_of(left, right, found)
    seen = _seen_before_steps(left, right)
    if place is None:
        return seen
    number = place.step + 1
    names = [] if found.step != number or found.distances is None else [*found.distances]
    ours, theirs = (run.records.get(number, {}).get("grad_norm") for run in (left, right))
    factor = theirs / ours if ours and theirs is not None and math.isfinite(ours) else None
    return replace(
        seen,
        data_differs=place.data,
        counts_differ=place.counts,
        loss_differs=place.loss,
        first_loss_differs=place.first_loss,
        buffers_differ=any(name.startswith("buffer/") for name in names),
        weights_differ_after=any(is_weight(n) and not n.startswith("buffer/") for n in names),
        gradient_factor=factor,
    )


def _seen_before_steps(left: Outcome, right: Outcome) -> Seen:
    warned = " ".join((*left.warnings, *right.warnings))
    weights = {note.weights for run in (left, right) for note in run.notes.values()} - {None}
    return Seen(
        samples_differ=_first(left, "samples") != _first(right, "samples"),
        rate_differs=_rates_differ(left, right),
        reads_differ=any(
            note.first != note.again for run in (left, right) for note in run.notes.values()
        ),
        probe_differs_by_rank=data_differs_by_rank(left) or data_differs_by_rank(right),
        weights_differ=len(weights) > 1,
        is_sharded=right.strategy in _SHARDED,
        warned_of_collective=_COLLECTIVE in warned,
        warned_of_wrapper=_WRAPPER in warned,
        ranks=right.ranks,
        num_writers=max(writers(right).values(), default=0),
    )


def data_differs_by_rank(run: Outcome) -> bool:
    """Return whether ranks have data sets of another length, or with other first samples. Pure."""
    return len({(note.num_samples, note.first) for note in run.notes.values()}) > 1


def _first(run: Outcome, name: str) -> object:
    return run.records[min(run.records)].get(name) if run.records else None


def _rates_differ(left: Outcome, right: Outcome) -> bool:
    common = {*left.records} & {*right.records}
    return any(left.records[s].get("lr") != right.records[s].get("lr") for s in common)


def writers(run: Outcome) -> Mapping[str, int]:
    """Return by file how many ranks wrote it; only those that more than one wrote. Pure."""
    counts: dict[str, int] = {}
    for note in run.notes.values():
        for name in {*note.wrote}:
            counts[name] = counts.get(name, 0) + 1
    return {name: count for name, count in counts.items() if count > 1}


def seen_twice(first: Outcome, again: Outcome, found: Comparison) -> Seen:
    """Return what was seen of one run done twice; only its `repeat_` fields are set."""
    mine = seen_in(first, again, found)
    return Seen(
        repeat_differs=not found.is_equal or mine.data_differs or mine.weights_differ,
        repeat_data_differs=mine.data_differs or _probes(first) != _probes(again),
        repeat_weights_differ=mine.weights_differ,
        repeat_loss_differs=mine.first_loss_differs,
    )


def with_repeat(seen: Seen, twice: Seen) -> Seen:
    """Return what was seen, with what is known of the first run done twice."""
    names = [one.name for one in fields(Seen) if one.name.startswith("repeat_")]
    return replace(seen, **{name: getattr(twice, name) for name in names})


def _probes(run: Outcome) -> set[object]:
    return {note.first for note in run.notes.values()}
