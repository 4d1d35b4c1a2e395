"""The table, the targets, and what Young's interval would have wasted."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_table import markdown_table
from preemption_bench.variants import Training, Variant

PUBLISHED = {
    "Ray Train 2.60, checkpoint every 400 (published, not measured here)": 517,
    "Ray Train 2.60, checkpoint just in time (published, not measured here)": 91,
}
"""Wasted steps of 1,600 with 4 preemptions."""
LARGEST_TIME = 1.03
WASTED_A_PREEMPTION = 1
TIMES_YOUNG = 2.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one training showed."""

    wasted: int
    starts: int
    seconds: float
    start_s: float
    """Median of its starts: from the command to the end of the first step."""
    training_s: float
    """Without the starts."""
    leaving_s: float
    """Median of its preemptions, or else from its last step: until every process has ended."""
    difference: float | None
    """Largest of any final parameter, to the undisturbed training of the same library."""
    stalls_s: tuple[float, ...]
    """Of the saves, where relaunch tells them."""


def found_in(training: Training, undisturbed: Training | None) -> Found:
    """Read what a training that has come to its end has left."""
    attempts = training.attempts
    starts = [a.first_step_s for a in attempts if a.first_step_s is not None]
    leaving = [a.leaving_s for a in attempts if a.preempted or len(attempts) == 1]
    return Found(
        wasted=training.wasted,
        starts=len(attempts),
        seconds=training.seconds,
        start_s=statistics.median(starts),
        training_s=training.seconds - sum(starts),
        leaving_s=statistics.median(leaving),
        difference=None if undisturbed is None else _difference(training, undisturbed),
        stalls_s=tuple(_stalls(training.folder / "run" / "events.jsonl")),
    )


def _difference(mine: Training, other: Training) -> float:
    a, b = (torch.load(training.folder / "final.pt") for training in (mine, other))
    return float((a.double() - b.double()).abs().max())


def _stalls(events: Path) -> Iterable[float]:
    if events.exists():
        for line in events.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "saved":
                yield event["stall_s"]


Taken = dict[Variant, list[Found]]
"""Of all rounds."""


def _median(taken: Sequence[Found], value: Callable[[Found], float | None]) -> float | None:
    values = [v for found in taken if (v := value(found)) is not None]
    return statistics.median(values) if values else None


def table(taken: Taken, failed: dict[Variant, str]) -> str:
    """Return a row for each variant, under what others have published."""
    head = ["", "wasted steps", "starts", "end to end (s)", "command to first step (s)"]
    head += ["preemption, or last step, to end (s)", "difference to undisturbed"]
    rows = [[name, str(wasted), *[""] * 5] for name, wasted in PUBLISHED.items()]
    columns: tuple[tuple[Callable[[Found], float | None], str], ...] = (
        (lambda f: f.wasted, "g"),
        (lambda f: f.starts, "g"),
        (lambda f: f.seconds, ".1f"),
        (lambda f: f.start_s, ".2f"),
        (lambda f: f.leaving_s, ".2f"),
        (lambda f: f.difference, ".1e"),
    )
    for variant, all_rounds in taken.items():
        cells = [(_median(all_rounds, value), form) for value, form in columns]
        rows.append([variant.name, *("" if v is None else f"{v:{form}}" for v, form in cells)])
    rows += [[variant.name, f"failed: {why}", *[""] * 5] for variant, why in failed.items()]
    return markdown_table(head, rows)


@dataclass(frozen=True, kw_only=True)
class Young:
    """The checkpoint interval that loses least, after J. W. Young, CACM 17(9), 1974."""

    stall_s: float
    between_failures_s: float
    step_s: float
    failures: int

    @property
    def interval_s(self) -> float:
        return math.sqrt(2 * self.stall_s * self.between_failures_s)

    @property
    def wasted(self) -> float:
        """Expected steps that are done again: half an interval for each failure."""
        return self.failures * self.interval_s / 2 / self.step_s

    def __str__(self) -> str:
        return (
            f"Young's interval for a stall of {1000 * self.stall_s:.1f} ms (median of the saves "
            f"measured here) and {self.between_failures_s:.2f} s of training between two failures "
            f"is {self.interval_s:.2f} s, {self.interval_s / self.step_s:.0f} steps; it would "
            f"waste {self.wasted:.0f} steps."
        )


def targets(taken: Taken, *, steps: int, preemptions: int) -> str:
    """Return what is asked of relaunch and what was found; empty where it was not measured."""
    of = {v.title: rounds for v, rounds in taken.items() if v.family == "relaunch"}
    undisturbed = of.get("undisturbed")
    if not undisturbed:
        return ""
    rows, notes = [], []
    for title, rounds in of.items():
        if title.startswith("notice"):
            rows.append(
                _row("wasted steps with a notice", rounds, WASTED_A_PREEMPTION * preemptions)
            )
            rows.extend(_time_rows(rounds, undisturbed, preemptions))
        if "auto" in title:
            young = _young(of, steps, preemptions)
            notes.append(str(young))
            what = 'wasted steps, killed, "auto" (twice those of Young\'s interval)'
            rows.append(_row(what, rounds, TIMES_YOUNG * young.wasted))
    head = ["target", "at most", "found", ""]
    return "\n\n".join([markdown_table(head, rows), *notes])


def _row(what: str, rounds: Sequence[Found], most: float) -> list[str]:
    value = statistics.median(found.wasted for found in rounds)
    return [what, f"{most:.0f}", f"{value:g}", "reached" if value <= most else "missed"]


def _time_rows(
    rounds: Sequence[Found], still: Sequence[Found], preemptions: int
) -> Iterable[list[str]]:
    mine = statistics.median(found.seconds for found in rounds)
    start_s = statistics.median(found.start_s for found in (*rounds, *still))
    leaving_s = statistics.median(found.leaving_s for found in rounds)
    undisturbed = statistics.median(found.seconds for found in still)
    most = LARGEST_TIME * undisturbed + preemptions * start_s
    what = f"seconds ({LARGEST_TIME:g} x undisturbed and {preemptions} starts of {start_s:.2f} s)"
    yield [what, f"{most:.1f}", f"{mine:.1f}", "reached" if mine <= most else "missed"]
    what = f"no target: the same and {preemptions} times of leaving, {leaving_s:.2f} s"
    yield [what, f"{most + preemptions * leaving_s:.1f}", f"{mine:.1f}", ""]


def _young(of: dict[str, list[Found]], steps: int, preemptions: int) -> Young:
    training_s = statistics.median(found.training_s for found in of["undisturbed"])
    stalls = [s for rounds in of.values() for found in rounds for s in found.stalls_s]
    return Young(
        stall_s=statistics.median(stalls),
        between_failures_s=training_s / preemptions,
        step_s=training_s / steps,
        failures=preemptions,
    )
