"""What a verification has found, as text and as one JSON document. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..trials.outcome import Outcome
from ..trials.run_trial import Trial
from .trial_plan import DDP
from .verdict import APART, EQUAL, FAILED, REFUSED, Row, table

_NOISE = (
    "ignored: differences up to {:.1e} of parameters whose gradient is rounding noise (such as a "
    "bias before a BatchNorm), which Adam turns into full steps; no loss depends on them"
)
_WITHOUT_RUN = (
    "{script} does not use Run: its losses, parameters, data and resumes cannot be compared, and "
    "its length cannot be cut. Exit codes: {codes}."
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The trials of one script, compared with the first of them."""

    first: Outcome
    rows: tuple[Row, ...] = ()
    tolerance: float
    strategies_are_named: bool = False
    """Then a strategy that refuses the script is a failure."""
    warnings: tuple[str, ...] = ()
    """Those of the runs that tell of a usual mistake."""

    @property
    def is_equal(self) -> bool:
        """Whether the script trains the same everywhere."""
        return not any(self.is_bad(row) for row in self.rows)

    def is_bad(self, row: Row) -> bool:
        """Return whether a row makes the verification fail."""
        if row.verdict == REFUSED:
            # A strategy that does not fit is no mistake of the script, unless it was asked for.
            return self.strategies_are_named or row.outcome.strategy == DDP
        return row.verdict in (APART, FAILED)

    @property
    def noise(self) -> float:
        """The largest difference that was left out as rounding noise."""
        return max((row.comparison.noise for row in self.rows if row.comparison), default=0.0)

    def text(self) -> str:
        """Return the table, and what is wrong with its remedy."""
        shown = [row for row in self.rows if row.comparison or row.verdict != APART]
        parts = [table(self.first, shown, self.first.name)]
        printed: set[str] = set()
        for row in self.rows:
            if row.verdict == EQUAL or row.sentence in printed:
                continue
            printed.add(row.sentence)
            remedy = f"\n  {row.cause.remedy}" if row.cause is not None else ""
            parts.append(f"{row.outcome.name}: {row.sentence}{remedy}")
        if self.noise:
            parts.append(_NOISE.format(self.noise))
        for warning in self.warnings:
            if not any(warning in sentence for sentence in printed):
                parts.append(f"the run warned: {warning}")
        if self.is_equal:
            parts.append(f"equal up to {self.tolerance:g}")
        return "\n\n".join(parts)

    def document(self) -> dict[str, Any]:
        """Return the same for programs; see docs/verify.md."""
        return {
            "equal": self.is_equal,
            "uses_run": True,
            "tolerance": self.tolerance,
            "left_out": self.noise,
            "warnings": list(self.warnings),
            "runs": [*self._runs()],
        }

    def _runs(self) -> Iterator[dict[str, Any]]:
        yield {**run_entry(self.first), "verdict": "first"}
        for row in self.rows:
            found = row.comparison
            yield {
                **run_entry(row.outcome),
                "verdict": row.verdict,
                "loss": None if found is None else finite(found.loss),
                "parameters": None if found is None else finite(found.parameters),
                "step": None if found is None else found.step or found.loss_step,
                "tensor": None if found is None else found.tensor,
                "cause": None if row.cause is None else row.cause.name.lower(),
                "sentence": row.sentence or None,
                "remedy": None if row.cause is None else row.cause.remedy,
            }


def timed_out_text(trial: Trial, outcome: Outcome) -> str:
    """Return that a trial was ended because its time was over, and what shortens it. Pure."""
    text = f"{trial.name} did not end in {trial.timeout_s:g} s; "
    if not (outcome.steps or outcome.micro_batches):
        return (
            f"{text}no step of run.prepare's loop was seen, and --steps shortens no other. Pass "
            "--timeout S, or arguments with which the script has less to do."
        )
    return (
        f"{text}{len(outcome.steps)} of {trial.settings.steps} steps were done. Pass --timeout S, "
        "or fewer --steps, or arguments with which the script has less to do before and after its "
        "training."
    )


def without_run_text(script: str | None, outcomes: list[Outcome]) -> str:
    """Return what can be printed about a script that does not use `Run`."""
    codes = ", ".join(f"{one.ranks} rank(s): {one.code}" for one in outcomes)
    return _WITHOUT_RUN.format(script=script, codes=codes)


def without_run_document(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "equal": None,
        "uses_run": False,
        "runs": [run_entry(one) for one in outcomes],
    }


def run_entry(outcome: Outcome) -> dict[str, Any]:
    """Return what identifies a run, and how it ended."""
    return {
        "name": outcome.name,
        "ranks": outcome.ranks,
        "strategy": outcome.strategy,
        "exit_code": outcome.code,
        "steps": len(outcome.steps),
    }


def finite(value: float) -> float | None:
    """Return a number as JSON has it; None for what is infinite or no number."""
    return value if math.isfinite(value) else None
