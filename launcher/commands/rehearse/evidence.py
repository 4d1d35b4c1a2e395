"""The content of a run folder at its end, in a form that can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from checkpointing import CheckpointError, CheckpointStore

from ...run_folder.jsonl import events_of, metrics_of, records
from ..trials.compare import apart_beyond_noise, different
from ..trials.outcome import steps_of

Place = tuple[int, int]
"""(step from 0, number of the canonical micro-batch)."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A run that has come to its end."""

    run_dir: Path
    records: tuple[Mapping[str, Any], ...] = ()
    """metrics.jsonl."""
    batches: Mapping[Place, frozenset[str]] = field(default_factory=dict)
    """Digests of what the micro-batches held; more than one: it was another when done again."""
    final_step: int | None = None
    """The newest checkpoint; None: there is none."""
    weights: tuple[str, ...] = ()
    """Where there is none: the safetensors files that the script wrote last, within the run folder,
    all in one of its folders."""
    resumed_elsewhere: bool = False
    """Its first start has resumed: from a checkpoint that the run has not written."""

    @property
    def is_saved(self) -> bool:
        """Whether there are final parameters that can be compared."""
        return self.final_step is not None or bool(self.weights)

    @property
    def steps(self) -> list[int]:
        """The steps of the records, in the order of the file."""
        return [record["step"] for record in self.records]


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far the final parameters of two runs are apart."""

    largest: float
    """Of any tensor of the checkpoint, the optimizer's included."""
    tensor: str | None = None
    """Where that is; None: every bit is the same."""
    noise: float = 0.0
    """The largest difference of weights whose gradient is rounding noise: Adam makes whole steps of
    it, in other directions where sums have another order."""
    beyond_noise: Distance | None = None
    """The distance without these; None: it is the same."""
    trouble: str | None = None
    """Why they could not be compared."""


def evidence_of(run_dir: Path, trace: Path) -> Evidence:
    """Read a run.

    Raises:
        OSError: it cannot be read.
    """
    batches: dict[Place, frozenset[str]] = {}
    for path in sorted(trace.glob("rank-*.jsonl")):
        for one in records(path):
            if "batch" in one:
                place = (one["step"], one["micro_batch"])
                batches[place] = batches.get(place, frozenset()) | {one["batch"]}
    steps = steps_of(run_dir)
    start = next((one for one in events_of(run_dir) if one["event"] == "start"), {})
    return Evidence(
        run_dir=run_dir,
        records=tuple(metrics_of(run_dir)),
        batches=batches,
        final_step=max(steps, default=None),
        weights=() if steps else last_weights(run_dir),
        resumed_elsewhere=bool(start.get("resumed")),
    )


def last_recorded(run_dir: Path) -> int:
    """Return the last step in metrics.jsonl; 0: there is none yet."""
    return max((int(record["step"]) for record in metrics_of(run_dir)), default=0)


def last_weights(run_dir: Path) -> tuple[str, ...]:
    """Return the safetensors files in the folder of the one that was written last, sorted."""
    files = [path for path in run_dir.rglob("*.safetensors") if path.is_file()]
    if not files:
        return ()
    folder = max(files, key=lambda path: path.stat().st_mtime_ns).parent
    return tuple(sorted(str(p.relative_to(run_dir)) for p in files if p.parent == folder))


def newest_intact(run_dir: Path) -> int:
    """Return the step of the newest checkpoint of which every byte is as written; 0: none is."""
    store = CheckpointStore(run_dir / "checkpoints")
    try:
        return next((step for step in store.steps() if not store.verify(step)), 0)
    except (CheckpointError, OSError):
        return 0


def is_compared(name: str, *, uses_run: bool) -> bool:
    """Return whether a tensor of the final checkpoint must be the same in two runs. Pure.

    A loop of the script's own keeps its random numbers as an object; those that the script does not
    seed differ by chance.
    """
    return uses_run or not name.startswith("object/")


def distance_of(left: Evidence, right: Evidence, *, uses_run: bool = True) -> Distance:
    """Compare the final checkpoints of two runs, tensor by tensor."""
    if right.final_step is None and right.weights:
        return _distance_of_weights(left.run_dir, right.run_dir, right.weights)
    if left.final_step is None or right.final_step is None:
        return Distance(largest=inf, trouble="there is no final checkpoint")
    stores = [CheckpointStore(one.run_dir / "checkpoints") for one in (left, right)]
    try:
        with stores[0].open(left.final_step) as ours, stores[1].open(right.final_step) as theirs:
            names = [{spec.name for spec in one.manifest.specs()} for one in (ours, theirs)]
            if names[0] != names[1]:
                other = sorted(names[0] ^ names[1])[0]
                return Distance(largest=inf, trouble=f"only one run has {other}")
            found = {
                name: by
                for name, by in different(ours, theirs).items()
                if is_compared(name, uses_run=uses_run)
            }
            apart = apart_beyond_noise(ours, theirs, found)
    except (CheckpointError, OSError) as error:
        return Distance(largest=inf, trouble=str(error))
    beyond = _farthest(apart.found) if apart.noise else None
    noise = max(apart.noise.values(), default=0.0)
    return replace(_farthest(found), noise=noise, beyond_noise=beyond)


def _farthest(found: Mapping[str, float]) -> Distance:
    if not found:
        return Distance(largest=0.0)
    tensor = max(found, key=lambda name: found[name])
    return Distance(largest=found[tensor], tensor=tensor)


def _distance_of_weights(left: Path, right: Path, names: Sequence[str]) -> Distance:
    """Compare safetensors files of the same names; torch is imported where bytes differ."""
    largest = Distance(largest=0.0)
    for name in names:
        if not (left / name).is_file():
            return Distance(largest=inf, trouble=f"there is no final {name}")
        if (left / name).read_bytes() == (right / name).read_bytes():
            continue
        for tensor, by in _tensor_distances(left / name, right / name):
            if by is None:
                trouble = f"the tensor {tensor} of {name} has another shape, or one run lacks it"
                return Distance(largest=inf, trouble=trouble)
            if by > largest.largest:
                largest = Distance(largest=by, tensor=f"{name}: {tensor}")
    return largest


def _tensor_distances(left: Path, right: Path) -> Iterator[tuple[str, float | None]]:
    from safetensors.torch import load_file

    ours, theirs = load_file(left), load_file(right)
    for name in sorted({*ours, *theirs}):
        mine, other = ours.get(name), theirs.get(name)
        if mine is None or other is None or mine.shape != other.shape:
            yield name, None
        elif mine.numel():
            yield name, float((mine.double() - other.double()).abs().nan_to_num(nan=inf).max())
