"""What a trial has left: its records, what its ranks noted, and its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpointing import CheckpointError, CheckpointStore

from ...run_folder.jsonl import events_of, metrics_of, records
from .run_trial import RUN, TRACE, Trial, sentences


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one rank noted of a micro-batch."""

    rank: int
    batch: str = ""
    """Digest of what it held."""
    loss: float | None = None
    count: float | None = None


@dataclass(frozen=True, kw_only=True)
class RankNotes:
    """What one rank noted before the first step, and the files it wrote."""

    weights: str | None = None
    """Digest of the weights; None: this rank does not hold the whole of them."""
    num_samples: int | None = None
    first: str | None = None
    """Digest of the first samples of the data set."""
    again: str | None = None
    """Digest of the same, read a second time."""
    wrote: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A trial as it ended."""

    name: str
    ranks: int
    strategy: str
    code: int
    """Its exit code; TIMED_OUT: it was ended."""
    folder: Path
    """The run folder."""
    records: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """metrics.jsonl, by step from 1."""
    micro_batches: Mapping[tuple[int, int], MicroBatch] = field(default_factory=dict)
    """By (step from 0, number of the canonical micro-batch)."""
    notes: Mapping[int, RankNotes] = field(default_factory=dict)
    """By rank."""
    steps: tuple[int, ...] = ()
    """Steps that have a checkpoint, oldest first."""
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    uses_run: bool = True
    end_step: int | None = None
    """The step at which its training ended by itself; None: it did not."""
    text: str = ""
    """The end of what was printed."""

    @property
    def losses(self) -> dict[int, float]:
        """The loss of each step that has a record."""
        return {step: one["loss"] for step, one in self.records.items() if "loss" in one}


_SHOWN_CHARACTERS = 2000


def outcome_of(trial: Trial, code: int) -> Outcome:
    """Read what a trial has left.

    Raises:
        OSError: something is there and cannot be read.
    """
    run_dir = trial.folder / RUN
    events = list(events_of(run_dir))
    ends = [event for event in events if event["event"] == "end"]
    traces = sorted((trial.folder / TRACE).glob("rank-*.jsonl"))
    noted = [one for path in traces for one in records(path)]
    text = trial.output.read_text(encoding="utf-8", errors="replace")
    return Outcome(
        name=trial.name,
        ranks=trial.ranks,
        strategy=trial.strategy,
        code=code,
        folder=run_dir,
        records={record["step"]: record for record in metrics_of(run_dir)},
        micro_batches=_micro_batches(noted),
        notes=_notes(noted),
        steps=steps_of(run_dir),
        errors=tuple(sentences(trial, "error")),
        warnings=tuple(sentences(trial, "warning")),
        # A loop of the script's own records its start, too, and is not observed.
        uses_run=bool(noted) or (code != 0 and any(one["event"] == "start" for one in events)),
        end_step=ends[-1].get("step") if ends else None,
        text=text[-_SHOWN_CHARACTERS:],
    )


def steps_of(run_dir: Path) -> tuple[int, ...]:
    """Return the steps that have a checkpoint, oldest first."""
    try:
        return tuple(reversed(CheckpointStore(run_dir / "checkpoints").steps()))
    except CheckpointError:
        return ()


def _micro_batches(noted: Iterable[Mapping[str, Any]]) -> dict[tuple[int, int], MicroBatch]:
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for one in noted:
        if "micro_batch" in one:
            place = (one["step"], one["micro_batch"])
            wanted = {n: one[n] for n in ("rank", "batch", "loss", "count") if n in one}
            found.setdefault(place, {}).update(wanted)
    return {place: MicroBatch(**values) for place, values in found.items()}


def _notes(noted: Iterable[Mapping[str, Any]]) -> dict[int, RankNotes]:
    found: dict[int, dict[str, Any]] = {}
    wrote: dict[int, list[str]] = {}
    for one in noted:
        rank = found.setdefault(one["rank"], {})
        if "weights" in one:
            rank["weights"] = one["weights"]
        elif "samples" in one:
            rank |= {"num_samples": one["samples"], "first": one["first"], "again": one["again"]}
        elif "wrote" in one:
            wrote.setdefault(one["rank"], []).append(one["wrote"])
    return {r: RankNotes(**values, wrote=tuple(wrote.get(r, ()))) for r, values in found.items()}
