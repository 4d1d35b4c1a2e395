"""What the trials came to, as tables; pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ...run_folder.history import RunFacts
from ...run_folder.tables import render
from .space import Parameters

REPEATED = ("seed", "fold", "folds")
"""What does not make a setting another one: its trials are put together."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One trial."""

    number: int
    parameters: Parameters
    state: str
    """"finished", "pruned", "given up" (not run, because its setting was bad), "failed", or "left"
    where it resumes next time."""
    value: float | None = None
    step: int | None = None


def best_of(facts: RunFacts, monitor: str, mode: str) -> tuple[float, int] | None:
    """Return the best value of a run and its step; None where it was never measured."""
    series = facts.records.series.get(monitor)
    if series is None:
        return None
    best = series.lowest if mode == "min" else series.highest
    return best.value, best.step


def trial_table(results: Sequence[Result], monitor: str, mode: str) -> str:
    """Return a line for each trial, the best first."""
    names = list(dict.fromkeys(name for r in results for name in r.parameters))
    sign = 1 if mode == "min" else -1
    ordered = sorted(results, key=lambda r: (r.value is None, sign * (r.value or 0.0), r.number))
    rows = [
        (
            str(r.number),
            *(r.parameters.get(name, "") for name in names),
            "" if r.value is None else f"{r.value:.6g}",
            "" if r.step is None else str(r.step),
            r.state,
        )
        for r in ordered
    ]
    return render(("trial", *names, monitor, "step", "state"), rows, right=f"trial {monitor} step")


def spread_table(results: Sequence[Result], monitor: str, mode: str) -> str:
    """Return mean and spread over seeds and folds for each setting, the best mean first.

    The spread is the sample standard deviation (n - 1); with one trial there is none.
    """
    groups: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for r in results:
        if r.value is not None:
            key = tuple((k, v) for k, v in r.parameters.items() if k not in REPEATED)
            groups.setdefault(key, []).append(r.value)
    sign = 1 if mode == "min" else -1
    rows = []
    for key, values in sorted(groups.items(), key=lambda g: sign * statistics.mean(g[1])):
        spread = f"{statistics.stdev(values):.3g}" if len(values) > 1 else ""
        label = " ".join(f"{name}={value}" for name, value in key) or "(as it is)"
        rows.append((label, str(len(values)), f"{statistics.mean(values):.6g}", spread))
    return render(("setting", "trials", "mean", "spread"), rows, right="trials mean spread")
