"""One trial beside the first: equal, refused, failed, or apart, in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...run_folder.tables import render
from ..trials.compare import Comparison
from ..trials.outcome import Outcome
from ..trials.run_trial import TIMED_OUT
from .causes import Cause, Seen, cause_of
from .observe import data_differs_by_rank, writers

EQUAL, APART, REFUSED, FAILED = "equal", "apart", "refused", "failed"
_USAGE = 2
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b(:|$)")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table."""

    outcome: Outcome
    verdict: str
    comparison: Comparison | None = None
    cause: Cause | None = None
    sentence: str = ""
    """What is wrong, in a sentence."""


def failed_row(outcome: Outcome) -> Row:
    """Return the row of a trial that did not end as it should."""
    verdict = REFUSED if outcome.code == _USAGE else FAILED
    why = why_failed(outcome)
    if not data_differs_by_rank(outcome):
        return Row(outcome=outcome, verdict=verdict, sentence=why)
    # The ranks have noted more than the sentence of one of them tells.
    cause = Cause.DATA_BY_RANK
    sentence = f"{why}\n  {cause.what}"
    return Row(outcome=outcome, verdict=verdict, cause=cause, sentence=sentence)


def why_failed(outcome: Outcome) -> str:
    """Return why a trial failed, as far as it printed it."""
    if outcome.code == TIMED_OUT:
        return "it did not end in the time of --timeout; fewer --steps take less"
    if outcome.errors:
        return outcome.errors[-1]
    lines = [line.strip() for line in outcome.text.splitlines() if line.strip()]
    # The launcher's report: what has failed first, and below it the exception.
    found = [line for line in lines if _EXCEPTION.match(line)]
    found = found or [line for line in lines if not line.startswith("relaunch:")] or lines
    return f"exit code {outcome.code}: {found[-1] if found else 'nothing was printed'}"


def compared_row(first: Outcome, other: Outcome, found: Comparison, seen: Seen) -> Row:
    """Return the row of a trial that ended well."""
    is_apart = not found.is_equal or seen.data_differs or seen.ends_differ
    if not is_apart and (seen.is_resume or not seen.warned_of_wrapper):
        return Row(outcome=other, verdict=EQUAL, comparison=found)
    cause = cause_of(seen)
    return Row(
        outcome=other,
        verdict=APART,
        comparison=found,
        cause=cause,
        sentence=_filled(cause, first, other, seen),
    )


def _filled(cause: Cause, first: Outcome, other: Outcome, seen: Seen) -> str:
    samples, rates = (
        [run.records[min(run.records)].get(name) if run.records else None for run in (first, other)]
        for name in ("samples", "lr")
    )
    return cause.what.format(
        samples=samples[0],
        first=first.name,
        other_samples=samples[1],
        other=other.name,
        rate=rates[0],
        other_rate=rates[1],
        factor=seen.gradient_factor or 0.0,
        code=seen.notice_code,
        end=first.end_step,
        other_end=other.end_step,
        file=", ".join(writers(other)),
    )


def file_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return a row for the first trial in which several ranks wrote one file; or none."""
    for outcome in outcomes:
        if writers(outcome):
            cause = Cause.FILE_BY_ALL_RANKS
            sentence = cause.what.format(file=", ".join(writers(outcome)))
            return [Row(outcome=outcome, verdict=APART, cause=cause, sentence=sentence)]
    return []


def warning_lines(outcomes: Sequence[Outcome], marks: Sequence[str]) -> list[str]:
    """Return the warnings of the runs that tell of a usual mistake, each once."""
    found = [w for one in outcomes for w in one.warnings if any(mark in w for mark in marks)]
    return list(dict.fromkeys(found))


def table(first: Outcome, rows: Sequence[Row], name_of_first: str) -> str:
    """Return the table: against the first run, the largest differences and where they begin."""
    lines = [(name_of_first, "-", "-", "", f"{len(first.steps)} steps")]
    for row in rows:
        if row.comparison is None:
            lines.append((row.outcome.name, "", "", "", row.verdict))
            continue
        found = row.comparison
        where = f"step {found.step}, {found.tensor}" if found.step else ""
        if not where and found.loss_step:
            where = f"step {found.loss_step}, loss"
        lines.append(
            (row.outcome.name, f"{found.loss:.1e}", f"{found.parameters:.1e}", where, row.verdict)
        )
    headers = ("run", "loss", "parameters", "parts at", "")
    return render(headers, lines, right="loss parameters")
