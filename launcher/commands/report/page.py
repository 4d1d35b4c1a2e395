"""The text of a report, in Markdown; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ...run_folder.goodput import goodput
from ...run_folder.history import AttemptRecord, Record, RunFacts
from ...run_folder.lines.fields import skipped_text
from ...run_folder.metric_text import is_table, measured_in, metric_text
from ...run_folder.progress_line import duration_text
from ...run_folder.tables import plural, render
from ...terminal.printable import markdown, markdown_start

_NOTABLE: Mapping[str, Callable[[Record], str]] = {
    "checkpoint refused": lambda e: e["reason"],
    "save failed": lambda e: f"the save at step {e['step']} failed: {e['reason']}",
    "changed": lambda e: f"changed by the script: {e['what']}",
    "not deleted": lambda e: e["reason"],
    "saved in the foreground": lambda e: e["reason"],
    "memory not locked": lambda e: e["reason"],
    "saves keep failing": lambda e: f"{e['in_a_row']} saves in a row had failed by then",
    "rate cut": lambda e: f"step {e['step']}: {e['reason']}",
    "rolled back": lambda e: (
        f"{e.get('reason', '')} It rolled back from step {e['from_step']} to step {e['step']} and "
        f"skipped the data of {e['jumped_steps']} steps."
    ).lstrip(),
    "weights": lambda e: f"it began with the weights in {e['path']}",
}
_COMPARED = (
    *("run", "state", "step", "best", "at step", "test", "training"),
    *("lost", "attempts", "ranks", "strategy"),
)


def page(facts: RunFacts, *, picture: str | None, missing: str = "") -> str:
    """Return the report of one run.

    Args:
        facts: what its folder says.
        picture: the picture's file name beside the page; None: there is none.
        missing: why there is none.
    """
    parts = [f"# {markdown(facts.name)}", markdown(state_sentence(facts))]
    without = f"There is no picture: {markdown(missing)}"
    parts.append(f"![curves]({picture})" if picture else without)
    if facts.is_known_to_launcher_alone:
        parts += ["## Attempts", _launched(facts.attempts)]
    else:
        parts += ["## Attempts", _attempts(facts.attempts)]
        parts += ["## Where the time went", _time(facts)]
    if facts.records.metric_names():
        parts += ["## Evaluations", _evaluations(facts)]
    if tables := _tables(facts):
        parts += ["## Tables", tables]
    notable = [_NOTABLE[e["event"]](e) for e in facts.events if e["event"] in _NOTABLE]
    notable += [f"{skipped_text(name, count)}." for name, count in facts.skipped.items()]
    if notable:
        parts += ["## Worth knowing", "\n".join(f"- {markdown_start(one)}" for one in notable)]
    parts += ["## Configuration", _made_of(facts)]
    return "\n\n".join(parts) + "\n"


def state_sentence(facts: RunFacts) -> str:
    """Return in a sentence how the run stands."""
    if not facts.attempts:
        return "No step has been done yet."
    last = facts.attempts[-1]
    if facts.is_known_to_launcher_alone and last.code is None:
        ranks = plural(last.world_size, "rank")
        return (
            f"Attempt {last.number} began at {_clock(last.began_s)} on {ranks}: running, or killed "
            f"without a message. Its script reports no steps; its output is in "
            f"{output_folder(last.number)}."
        )
    if facts.is_known_to_launcher_alone:
        return (
            f"{ended_text(last)} What it has trained is not known: its script has reported nothing."
        )
    if last.ending is None and last.code is not None:
        return f"At step {last.end_step}, in attempt {last.number}. {ended_text(last)}"
    if last.ending is None:
        return (
            f"At step {last.end_step}, in attempt {last.number}: running, or killed without a "
            f"message after {_clock(last.last_sign_s)}."
        )
    if facts.is_over:
        return f"Finished at step {last.end_step}: {last.ending}, {last.reason}."
    return f"Preempted at step {last.end_step}. The same command resumes the run."


def ended_text(attempt: AttemptRecord) -> str:
    """Return in a sentence how the launcher saw an attempt end."""
    why = f": {attempt.error}" if attempt.error else ""
    took = _time_text(attempt.last_sign_s - attempt.began_s)
    ranks = plural(attempt.world_size, "rank")
    return f"It ended with code {attempt.code}, after {took} on {ranks}{why}".rstrip(".") + "."


def comparison(runs: Sequence[RunFacts]) -> str:
    """Return a table with a line for each run, for a terminal."""
    names = told_apart([facts.path.resolve() for facts in runs])
    rows = [(name, *_compared(facts)) for name, facts in zip(names, runs, strict=True)]
    return render(_COMPARED, rows, right="step best at training lost attempts ranks")


def _state(attempt: AttemptRecord) -> str:
    return "running or killed" if attempt.code is None else f"ended, code {attempt.code}"


def told_apart(paths: Sequence[Path]) -> list[str]:
    """Return for each folder the shortest end of its path that no other one has."""

    def name(path: Path) -> str:
        others = [other for other in paths if other != path]
        for number in range(1, len(path.parts)):
            end = path.parts[-number:]
            if all(other.parts[-number:] != end for other in others):
                return "/".join(end)
        return str(path)

    return [name(path) for path in paths]


def _compared(facts: RunFacts) -> tuple[str, ...]:
    last = facts.attempts[-1] if facts.attempts else None
    best, spent = facts.best, goodput(facts)
    tests = facts.of("test")
    tested = measured_in(tests[-1]) if tests else {}
    return (
        "not begun" if last is None else last.ending or _state(last),
        str(facts.step),
        "" if best is None else f"{best['monitor']} {best['value']:.5g}",
        "" if best is None else str(best["step"]),
        " ".join(
            f"{name.split('/', 1)[1]} {value:.4g}"
            for name, value in tested.items()
            if not is_table(value)
        ),
        f"{spent.share(spent.training_s):.0%} of {duration_text(spent.total_s)}",
        duration_text(spent.lost_s),
        str(len(facts.attempts)),
        "" if last is None else str(last.world_size),
        "" if last is None else f"{last.strategy} {last.precision}".strip(),
    )


def _attempts(attempts: Sequence[AttemptRecord]) -> str:
    return _table(
        ("attempt", "began (UTC)", "strategy", "ranks", "steps", "took", "start", "why it ended"),
        [
            (
                str(a.number),
                _clock(a.began_s),
                f"{a.strategy}, {a.precision}, {a.device}",
                str(a.world_size),
                f"{a.step} to {a.end_step}",
                _time_text(a.last_sign_s - a.began_s),
                f"{a.start_s:.1f} s",
                _why(a, is_last=a is attempts[-1]),
            )
            for a in attempts
        ],
    )


def _launched(attempts: Sequence[AttemptRecord]) -> str:
    return _table(
        ("attempt", "began (UTC)", "ranks", "took", "code", "output", "why it ended"),
        [
            (
                str(a.number),
                _clock(a.began_s),
                str(a.world_size),
                "" if a.code is None else _time_text(a.last_sign_s - a.began_s),
                "" if a.code is None else str(a.code),
                output_folder(a.number),
                a.error or _end_of_launched(a, is_last=a is attempts[-1]),
            )
            for a in attempts
        ],
    )


def output_folder(attempt: int) -> str:
    """Return where an attempt's output is, in the run folder."""
    return f"logs/attempt-{attempt}"


def _end_of_launched(attempt: AttemptRecord, *, is_last: bool) -> str:
    if attempt.code is None:
        return "running, or killed without a message" if is_last else "killed without a message"
    if attempt.code == 0:
        return "done"
    return "preempted; the same command starts it again" if attempt.code == 75 else ""


def _why(attempt: AttemptRecord, *, is_last: bool) -> str:
    if attempt.ending is not None:
        return f"{attempt.ending}: {attempt.reason}"
    if attempt.code:
        return f"code {attempt.code}: {attempt.error or 'no rank reported a reason'}"
    return "running, or killed without a message" if is_last else "killed without a message"


def _time(facts: RunFacts) -> str:
    spent = goodput(facts)
    rows = [(what, _time_text(s), f"{spent.share(s):.1%}") for what, s in spent.rows()]
    return _table(("", "time", "share"), [*rows, ("all", _time_text(spent.total_s), "")])


def _evaluations(facts: RunFacts) -> str:
    rows = []
    for name in facts.records.metric_names():
        found = facts.records.series[name]
        points = (found.lowest, found.highest, found.last)
        cells = (f"{value:.6g} (step {step})" for step, value in points)
        rows.append((name, str(found.count), *cells))
    text = _table(("metric", "evaluations", "lowest", "highest", "last"), rows)
    if facts.best is not None:
        best = facts.best
        name = markdown(best["monitor"])
        text += f"\n\nBest: {name} {best['value']:.6g} at step {best['step']}."
    for test in facts.of("test"):
        measured = ", ".join(metric_text(k, v, digits=6) for k, v in measured_in(test).items())
        weights = f" of the {test['weights']} weights" if "weights" in test else ""
        text += "\n\n" + markdown(f"Test{weights}: {measured}.")
    return text


def _tables(facts: RunFacts) -> str:
    """Return the newest of each table that was measured, in evaluations and tests."""
    tables = facts.records.tables.items()
    newest = {name: (f"at step {step}", rows) for name, (step, rows) in tables}
    for test in facts.of("test"):
        weights = f" of the {test['weights']} weights" if "weights" in test else ""
        tested = {k: v for k, v in measured_in(test).items() if is_table(v)}
        newest |= {name: (f"in the test{weights}", rows) for name, rows in tested.items()}
    return "\n\n".join(
        f"{markdown_start(f'{name} {when}:')}\n\n{_matrix(rows)}"
        for name, (when, rows) in newest.items()
    )


def _matrix(rows: Sequence[Sequence[float | None]]) -> str:
    """Return a matrix with the number of each row and column."""
    columns = [str(n) for n in range(len(rows[0]) if rows else 0)]
    cells = (["" if x is None else f"{x:.6g}" for x in row] for row in rows)
    return _rows(["", *columns], [[f"**{n}**", *row] for n, row in enumerate(cells)])


def _made_of(facts: RunFacts) -> str:
    description = facts.description
    rows = [(key, _flat(description[key])) for key in description if description[key] is not None]
    return _table(("", ""), rows) if rows else "run.json is missing."


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_flat(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts, of which none is taken for Markdown."""
    return _rows(headers, [[markdown(cell) for cell in row] for row in rows])


def _rows(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(headers), "|" + " --- |" * len(headers)]
    return "\n".join([*lines, *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _time_text(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else duration_text(seconds)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
