"""`relaunch compare`: where two runs part, in their records and in their checkpoints."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpointing import (
    CheckpointError,
    CheckpointReader,
    CheckpointStore,
    different_specs,
    different_values,
)

from ..command_line.subcommand_parser import CommandParser
from ..errors import UsageError
from ..run_folder.jsonl import METRICS, metrics_of
from ..run_folder.metric_text import WEIGHTS_DIGEST
from ..run_folder.tables import plural
from ..terminal.console import say
from ..terminal.printable import printable
from .checkpoint.target import find_target

_EQUAL, _DIFFERENT = 0, 1
_OF_THE_CLOCK = frozenset({"step", "time", "attempt", "samples_per_s", "evaluation_s"})
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class RecordDifference:
    """The first step whose records differ."""

    step: int
    values: Mapping[str, tuple[Any, Any]]
    """By name, the value of each run; None: not recorded."""


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """The first step whose checkpoints differ."""

    step: int
    tensors: tuple[str, ...]
    """What differs, in the order of the checkpoint."""
    largest: float
    """The largest absolute difference in the first of them; inf for another shape or dtype."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two runs, side by side."""

    num_records: int
    """Steps that both have a record of."""
    last_record: int | None
    num_checkpoints: int
    """Steps that both have a checkpoint of, up to the first that differs."""
    last_checkpoint: int | None
    """The newest of them in which no bit differs."""
    records: RecordDifference | None
    tensors: TensorDifference | None

    @property
    def is_equal(self) -> bool:
        """Whether no recorded number and no bit of a common checkpoint differs."""
        return self.records is None and self.tensors is None


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of everything after `relaunch compare`."""
    parser = CommandParser(
        prog="relaunch compare",
        description="Compare two runs bit by bit: each number that both have recorded, and each "
        "checkpoint that both have. Exit code 1 if anything differs.",
    )
    for name in ("left", "right"):
        parser.add_argument(name, type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def run(argv: Sequence[str]) -> int:
    """Run `relaunch compare` and return the exit code.

    Raises:
        UsageError: the words are wrong, a folder is no run's, or the two have no step in common.
        SystemExit: 0, after `--help` was printed.
    """
    given = build_parser().parse_args(argv)
    try:
        left, right = (records_of(path) for path in (given.left, given.right))
        found = compare_runs(left, right, *(_store(path) for path in (given.left, given.right)))
    except (CheckpointError, OSError) as error:
        say(f"error: {printable(str(error))}")
        return _DIFFERENT
    if not found.num_records and not found.num_checkpoints:
        raise UsageError(
            f"{given.left} and {given.right} have no step in common, neither in {METRICS} nor in "
            "their checkpoints. Record every step with log_every=1, or compare other runs."
        )
    print(json_of(found) if given.json else "\n".join(text_of(found)))
    return _EQUAL if found.is_equal else _DIFFERENT


def records_of(path: Path) -> dict[int, Mapping[str, Any]]:
    """Return a run's records by step.

    Raises:
        UsageError: it has none.
        OSError: they cannot be read.
    """
    if not (path / METRICS).is_file():
        raise UsageError(f"{path} is no run folder: it has no {METRICS}.")
    return {record["step"]: record for record in metrics_of(path)}


def _store(path: Path) -> CheckpointStore | None:
    try:
        return dict(find_target(path).stores).get("checkpoints")
    except UsageError:
        return None  # nothing has been saved yet, and the records can be compared


def compare_runs(
    left: Mapping[int, Mapping[str, Any]],
    right: Mapping[int, Mapping[str, Any]],
    ours: CheckpointStore | None,
    theirs: CheckpointStore | None,
) -> Comparison:
    """Compare records and checkpoints, oldest first, until something differs.

    Raises:
        DamagedCheckpointError: naming the file.
    """
    steps = sorted({*left} & {*right})
    saved = sorted({*ours.steps()} & {*theirs.steps()}) if ours and theirs else []
    apart, equal, number = None, None, 0
    for step in saved:
        assert ours is not None
        assert theirs is not None
        number += 1
        with ours.open(step) as mine, theirs.open(step) as other:
            apart = difference_at(step, mine, other)
        if apart is not None:
            break
        equal = step
    return Comparison(
        num_records=len(steps),
        last_record=steps[-1] if steps else None,
        num_checkpoints=number,
        last_checkpoint=equal,
        records=first_difference(left, right),
        tensors=apart,
    )


def first_difference(
    left: Mapping[int, Mapping[str, Any]], right: Mapping[int, Mapping[str, Any]]
) -> RecordDifference | None:
    """Return the first common step whose records differ in more than the clock; pure."""
    for step in sorted({*left} & {*right}):
        mine, other = left[step], right[step]
        names = [name for name in {**mine, **other} if name not in _OF_THE_CLOCK]
        if WEIGHTS_DIGEST not in mine or WEIGHTS_DIGEST not in other:
            # One run saved or evaluated here, and the other did not.
            names = [name for name in names if name != WEIGHTS_DIGEST]
        values = {n: (mine.get(n), other.get(n)) for n in names if mine.get(n) != other.get(n)}
        if values:
            return RecordDifference(step=step, values=values)
    return None


def difference_at(
    step: int, mine: CheckpointReader, other: CheckpointReader
) -> TensorDifference | None:
    """Return what differs in two checkpoints of a step; None: no bit of any tensor.

    Raises:
        DamagedCheckpointError: naming the file.
    """
    unlike = [one.name for one in different_specs(mine.manifest.specs(), other.manifest.specs())]
    if unlike:
        return TensorDifference(step=step, tensors=tuple(unlike), largest=float("inf"))
    found = list(different_values(mine, other))
    if not found:
        return None
    names = tuple(one.name for one in found)
    return TensorDifference(step=step, tensors=names, largest=found[0].largest)


def json_of(found: Comparison) -> str:
    """Return one document; pure. An infinite distance has no JSON: it goes as text."""
    document = asdict(found)
    if found.tensors is not None and math.isinf(found.tensors.largest):
        document["tensors"]["largest"] = "inf"
    return json.dumps(document, allow_nan=False)


def text_of(found: Comparison) -> list[str]:
    """Return the lines for a person; pure."""
    lines = []
    if found.records is not None:
        values = "; ".join(f"{n} {a} and {b}" for n, (a, b) in _first(found.records.values))
        lines.append(f"records: differ first at step {found.records.step}: {values}")
    elif found.num_records:
        common = plural(found.num_records, "common record")
        lines.append(f"records: equal to step {found.last_record} ({common})")
    else:
        lines.append("records: no step in common")
    if (apart := found.tensors) is not None:
        names = ", ".join(apart.tensors[:_SHOWN])
        more = f" and {len(apart.tensors) - _SHOWN} more" if len(apart.tensors) > _SHOWN else ""
        lines.append(
            f"checkpoints: differ first at step {apart.step}: {names}{more}; the first by at most "
            f"{apart.largest:.3g}"
        )
    elif found.num_checkpoints:
        common = plural(found.num_checkpoints, "common checkpoint")
        lines.append(f"checkpoints: equal bits to step {found.last_checkpoint} ({common})")
    else:
        lines.append("checkpoints: no step in common")
    return lines


def _first(values: Mapping[str, tuple[Any, Any]]) -> list[tuple[str, tuple[Any, Any]]]:
    return list(values.items())[:_SHOWN]
