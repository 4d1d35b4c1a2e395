"""`rehearsal.md`: one row for each fault, and what was wrong."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ...run_folder.tables import plural
from .judge import Verdict

PICTURE = "rehearsal.svg"
HEAD = (
    *("", "fault", "at step", "exit code", "steps lost", "to the first step (s)", "orphans"),
    *("largest difference", "result"),
)
_UNCHECKED = (
    "The script does not use `Run`: starts, signals, exit codes and processes are checked. "
    "Parameters, samples, metrics, steps lost and where it resumes cannot be: only the script "
    "knows them."
)


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What is rehearsed, for people."""

    words: tuple[str, ...]
    ranks: int
    strategy: str
    steps: int
    save_every: int
    seed: int
    uses_run: bool
    undisturbed_s: float
    seconds: float


def page(heading: Heading, verdicts: Sequence[Verdict]) -> str:
    """Return the page, in Markdown. Pure."""
    wrong = [verdict for verdict in verdicts if verdict.wrong]
    parts = [
        "# Rehearsal",
        f"`{shlex.join(heading.words)}`: {heading.ranks} ranks, {heading.strategy}, "
        f"{heading.steps} steps, a save each {heading.save_every} steps, seed {heading.seed}. "
        f"The undisturbed run took {heading.undisturbed_s:.1f} s, all of it {heading.seconds:.0f} "
        "s.",
        summary(verdicts),
        table(verdicts),
        f"![each command as a bar, the fault in red]({PICTURE})",
    ]
    if not heading.uses_run:
        parts.insert(3, _UNCHECKED)
    for verdict in wrong:
        fault = verdict.outcome.fault
        sentences = "\n".join(f"- {sentence}" for sentence in verdict.wrong)
        tail = "\n".join(f"    {line}" for line in verdict.outcome.output.splitlines()[-20:])
        parts.append(f"## {fault.number} {fault.kind.name}\n\n{sentences}\n\n{tail}")
    return "\n\n".join(parts) + "\n"


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return the result in one sentence. Pure."""
    num_wrong = sum(bool(verdict.wrong) for verdict in verdicts)
    left_out = sum(verdict.is_left_out and not verdict.wrong for verdict in verdicts)
    fine = len(verdicts) - num_wrong - left_out
    text = f"{plural(len(verdicts), 'fault')}: {fine} as it must be, {num_wrong} wrong"
    return f"{text}, {left_out} left out." if left_out else f"{text}."


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
        f"{distance.largest:.2g}" if distance is not None and is_compared else "",
        _result(verdict),
    ]


def line(verdict: Verdict) -> str:
    """Return what came of a fault, for the terminal. Pure."""
    fault = verdict.outcome.fault
    head = f"{fault.number:3d} {fault.kind.name:26s} {_result(verdict)}"
    return "\n".join([head, *(f"      {sentence}" for sentence in verdict.wrong)])


def _result(verdict: Verdict) -> str:
    if verdict.wrong:
        return "WRONG"
    return f"left out: {verdict.outcome.absent}" if verdict.is_left_out else "ok"
