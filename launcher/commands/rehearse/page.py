"""`rehearsal.md`: one row for each fault, and what was wrong."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...run_folder.tables import plural
from .judge import TOLERANCE, Verdict, counted

PICTURE = "rehearsal.svg"
HEAD = (
    *("", "fault", "at step", "exit code", "steps lost", "to the first step (s)", "orphans"),
    *("largest difference", "result"),
)
_NOISE = (
    "On other ranks, differences up to {:.1e} are ignored: of weights whose gradient is rounding "
    "noise, which Adam turns into full steps (such as the bias of the keys of an attention). With "
    "`-- --exact` there are none."
)
_RESULTS = {"ok": "ok", "FAILED": "wrong", "skipped": "left_out"}
"""As printed, and as a key."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What is rehearsed, for people."""

    words: tuple[str, ...]
    ranks: int
    """Of all nodes."""
    nodes: int = 1
    strategy: str
    steps: int
    save_every: int
    seed: int
    uses_run: bool
    has_checkpoints: bool = True
    """The run folder of the undisturbed run has one."""
    undisturbed_s: float
    seconds: float


def page(heading: Heading, verdicts: Sequence[Verdict]) -> str:
    """Return the page, in Markdown. Pure."""
    wrong = [verdict for verdict in verdicts if verdict.wrong]
    where = on_text(heading.ranks // heading.nodes, heading.nodes)
    parts = [
        "# Rehearsal",
        f"`{shlex.join(heading.words)}`: {where}, {heading.strategy}, "
        f"{heading.steps} steps, a save each {heading.save_every} steps, seed {heading.seed}. "
        f"The undisturbed run took {heading.undisturbed_s:.1f} s, all of it {heading.seconds:.0f} "
        "s.",
        summary(verdicts),
        table(verdicts),
        f"![each command as a bar, the fault in red]({PICTURE})",
    ]
    if not heading.uses_run:
        parts.insert(3, unchecked_text(has_checkpoints=heading.has_checkpoints))
    for verdict in wrong:
        fault = verdict.outcome.fault
        sentences = "\n".join(f"- {sentence}" for sentence in verdict.wrong)
        tail = "\n".join(f"    {line}" for line in verdict.outcome.output.splitlines()[-20:])
        parts.append(f"## {fault.number} {fault.kind.name}\n\n{sentences}\n\n{tail}")
    return "\n\n".join(parts) + "\n"


def on_text(ranks: int, nodes: int) -> str:
    """Return on what a run is. Pure.

    Args:
        ranks: of each node.
        nodes: how many.
    """
    text = plural(ranks, "rank")
    return text if nodes == 1 else f"{nodes} nodes of {text}"


def unchecked_text(*, has_checkpoints: bool) -> str:
    """Return what is checked of a script that does not use `Run`, and what is not. Pure."""
    checked = "starts, signals, exit codes and processes"
    if has_checkpoints:
        checked += ", and the final checkpoint in the run folder"
    unchecked = "Samples, metrics" if has_checkpoints else "Parameters, samples, metrics"
    return (
        f"The script does not use `Run`: {checked} are checked. {unchecked}, lost steps and the "
        "step of a resume are not: only the script knows them."
    )


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return the result in one sentence. Pure."""
    count = Counter(_RESULTS[_result(verdict)] for verdict in verdicts)
    text = f"{plural(len(verdicts), 'fault')}: {count['ok']} passed, {count['wrong']} failed"
    text += f", {count['left_out']} skipped." if count["left_out"] else "."
    noise = max((_noise(verdict) or 0.0 for verdict in verdicts), default=0.0)
    return text if noise <= TOLERANCE else f"{text} {_NOISE.format(noise)}"


def _noise(verdict: Verdict) -> float | None:
    """Return the largest difference that was not judged; None: all was."""
    kind, distance = verdict.outcome.fault.kind, verdict.distance
    if distance is None or counted(kind, distance) is distance:
        return None
    return distance.noise


def document(heading: Heading, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the whole result for programs; see docs/rehearse.md. Pure."""
    count = Counter(_RESULTS[_result(verdict)] for verdict in verdicts)
    return {
        **asdict(heading),
        "words": list(heading.words),
        **{name: count[name] for name in ("ok", "wrong", "left_out")},
        "faults": [_entry(verdict) for verdict in verdicts],
    }


def _entry(verdict: Verdict) -> dict[str, Any]:
    outcome, distance, parting = verdict.outcome, verdict.distance, verdict.parting
    counts = None if distance is None else counted(outcome.fault.kind, distance)
    largest = None if counts is None or counts.trouble else counts.largest
    return {
        "number": outcome.fault.number,
        "fault": outcome.fault.kind.name,
        "rank": outcome.fault.rank,
        "at_step": outcome.at_step,
        "exit_codes": list(outcome.codes),
        "steps_lost": None if verdict.is_left_out else outcome.lost,
        "resume_s": outcome.resume_s,
        "orphans": outcome.orphans,
        "largest_difference": largest if largest is not None and math.isfinite(largest) else None,
        "tensor": None if counts is None else counts.tensor,
        "noise": _noise(verdict),
        "parts_at": None if parting is None else parting.step,
        "cause": None if parting is None else parting.cause.name.lower(),
        "result": _RESULTS[_result(verdict)],
        "left_out": outcome.absent,
        "wrong": list(verdict.wrong),
    }


def table(verdicts: Sequence[Verdict]) -> str:
    """Return a row for each fault. Pure."""
    rows = [HEAD, ["---"] * len(HEAD), *(_row(verdict) for verdict in verdicts)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(verdict: Verdict) -> list[str]:
    outcome = verdict.outcome
    fault, distance = outcome.fault, verdict.distance
    is_compared = distance is not None and distance.trouble is None
    return [
        str(fault.number),
        fault.kind.name,
        "" if outcome.at_step is None else str(outcome.at_step),
        ", ".join("none" if code is None else str(code) for code in outcome.codes),
        "" if verdict.is_left_out else str(outcome.lost),
        "" if outcome.resume_s is None else f"{outcome.resume_s:.1f}",
        str(outcome.orphans),
        f"{counted(fault.kind, distance).largest:.2g}" if distance and is_compared else "",
        _result_text(verdict),
    ]


def line(verdict: Verdict) -> str:
    """Return what came of a fault, for the terminal. Pure."""
    fault = verdict.outcome.fault
    head = f"{fault.number:3d} {fault.kind.name:26s} {_result_text(verdict)}"
    return "\n".join([head, *(f"      {sentence}" for sentence in verdict.wrong)])


def _result(verdict: Verdict) -> str:
    if verdict.wrong:
        return "FAILED"
    return "skipped" if verdict.is_left_out else "ok"


def _result_text(verdict: Verdict) -> str:
    result = _result(verdict)
    return f"{result}: {verdict.outcome.absent}" if result == "skipped" else result
