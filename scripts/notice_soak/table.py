"""What came of the trials, as a table."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from bench_table import markdown_table

from .one_trial import Verdict
from .trials import PHASES

HEAD = ("", "trials", "codes", "steps lost", "processes left", "max difference", "violations")
ABOUT = (
    "grace = 1.5 x (the longest step + the longest save of an undisturbed run of the same kind), "
    "and at least 2 s,\nwhich on a busy machine is what counts where steps are short. The start of "
    "the processes is no part of it."
)


def result_table(verdicts: Sequence[Verdict]) -> str:
    """Return a row for each phase, then one for each target, workers, strategy and start."""
    rows = _rows(verdicts, lambda v: v.trial.phase, PHASES)
    rows += _rows(verdicts, lambda v: f"to the {v.trial.target}")
    rows += _rows(verdicts, lambda v: f"workers={v.trial.setting.workers}")
    rows += _rows(verdicts, lambda v: v.trial.setting.strategy)
    rows += _rows(verdicts, lambda v: v.trial.setting.start)
    rows.append(_row("all", verdicts))
    return f"{markdown_table(HEAD, rows)}\n\n{ABOUT}"


def _rows(
    verdicts: Sequence[Verdict], key: Callable[[Verdict], str], names: Sequence[str] = ()
) -> list[list[str]]:
    names = names or sorted({key(verdict) for verdict in verdicts})
    groups = {name: [v for v in verdicts if key(v) == name] for name in names}
    return [_row(name, group) for name, group in groups.items() if group]


def _row(name: str, verdicts: Sequence[Verdict]) -> list[str]:
    codes = Counter("none" if v.left.code is None else str(v.left.code) for v in verdicts)
    known = [v.difference for v in verdicts if not math.isnan(v.difference)]
    return [
        name,
        str(len(verdicts)),
        ", ".join(f"{code}: {count}" for code, count in sorted(codes.items())),
        str(sum(v.lost for v in verdicts)),
        str(sum(v.left.processes for v in verdicts)),
        f"{max(known):.1e}" if known else "-",
        str(sum(bool(v.wrong) for v in verdicts)),
    ]
