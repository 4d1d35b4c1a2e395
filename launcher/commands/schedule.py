"""`relaunch schedule`: the learning rates of a run as a table or a picture, before the run.

Nothing here imports torch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from strategies.errors import ConfigError
from strategies.schedules.length import Span
from strategies.schedules.parse import parse_schedule, schedule_of_script
from strategies.schedules.schedule import Schedule

from ..command_line.subcommand_parser import CommandParser
from ..errors import UsageError
from ..run_folder.tables import render

_BAR_WIDTH = 40
_EPILOG = """\
examples:
  relaunch schedule "warmup(50).then(cosine(floor=0.1))" --steps 1000 --rate 3e-3
  relaunch schedule "warmup('5 epochs').then(cosine())" --epochs 60 --steps-per-epoch 14
  relaunch schedule train.py --steps 1000 --plot schedule.png
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of everything after `relaunch schedule`."""
    parser = CommandParser(
        prog="relaunch schedule",
        description="Print the learning rates of a run before it starts.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "schedule",
        metavar="SCHEDULE",
        help="as written in Python, or a script (.py), which is parsed but not run",
    )
    parser.add_argument("--steps", type=int, help="optimizer steps of the run")
    parser.add_argument("--epochs", type=int, help="epochs of the run, instead of --steps")
    parser.add_argument("--steps-per-epoch", type=int, metavar="N", help="to print epochs")
    parser.add_argument("--rate", type=float, help="the optimizer's rate (default 1: factors)")
    parser.add_argument("--rows", type=int, default=20, help="lines of the table (default 20)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also plot it into this file")
    parser.add_argument("--json", action="store_true", help="print every step as one JSON document")
    return parser


def run(argv: Sequence[str]) -> int:
    """Run `relaunch schedule` and return the exit code.

    Raises:
        UsageError: the words are wrong, or the schedule is refused.
        SystemExit: 0, after `--help` was printed.
    """
    given = build_parser().parse_args(argv)
    span = _span(given)
    base = 1.0 if given.rate is None else given.rate
    if not base > 0 or given.rows < 2:
        raise UsageError(f"--rate {base:g} must be above 0, and --rows {given.rows} at least 2.")
    try:
        schedule = _read(given.schedule)
        rates = [schedule.rate(step, span, base) for step in range(span.total_steps)]
        notes = schedule.notes(span)
        starts = {placed.start: placed.piece.text for placed in schedule.placed(span)}
    except ConfigError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{given.schedule} cannot be read: {error.strerror}.") from error
    if given.plot is not None:
        _plot(given.plot, rates, str(schedule))
    if given.json:
        print(json.dumps({"schedule": str(schedule), "rates": rates, "notes": notes}))
        return 0
    print(schedule)
    print(table(rates, starts, rows=given.rows, steps_per_epoch=span.steps_per_epoch))
    for note in notes:
        print(f"note: {note}")
    return 0


def table(
    rates: Sequence[float], starts: dict[int, str], *, rows: int, steps_per_epoch: int | None
) -> str:
    """Return lines for about `rows` steps, among them the first of each piece and the last.

    Args:
        rates: at each 0-based step.
        starts: the first step of each piece, and the piece.
        rows: at least 2.
        steps_per_epoch: None: no column of epochs.
    """
    last = len(rates) - 1
    chosen = {round(last * row / (rows - 1)) for row in range(rows)}
    chosen |= {step for step in starts if step <= last}
    chosen |= {step - 1 for step in starts if 0 < step <= last}
    highest = max(rates) or 1.0
    epochs = ["epoch"] if steps_per_epoch is not None else []
    lines = [
        [
            str(step),
            *([f"{step / steps_per_epoch:.2f}"] if steps_per_epoch is not None else []),
            f"{rates[step]:.4g}",
            "#" * round(_BAR_WIDTH * rates[step] / highest),
            starts.get(step, ""),
        ]
        for step in sorted(chosen)
    ]
    return render(["step", *epochs, "rate", "", "begins"], lines, right="step epoch rate")


def _span(given: argparse.Namespace) -> Span:
    """Return how long the run is."""
    if (given.steps is None) == (given.epochs is None):
        raise UsageError("give either --steps N, or --epochs N and --steps-per-epoch N.")
    if given.epochs is not None and given.steps_per_epoch is None:
        raise UsageError(f"--epochs {given.epochs} needs --steps-per-epoch N.")
    for name in ("steps", "epochs", "steps_per_epoch"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value} must be at least 1.")
    steps = given.steps if given.steps is not None else given.epochs * given.steps_per_epoch
    return Span(total_steps=steps, steps_per_epoch=given.steps_per_epoch)


def _read(text: str) -> Schedule:
    if text.endswith(".py"):
        return schedule_of_script(Path(text).read_text(), name=text)
    return parse_schedule(text)


def _plot(path: Path, rates: Sequence[float], title: str) -> None:
    try:
        from matplotlib.figure import Figure  # takes a second, and is an extra
    except ImportError as error:
        raise UsageError("--plot needs matplotlib: pip install relaunch[plots].") from error
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.step(range(len(rates)), rates, where="post")
    axes.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None))
    axes.set_title(title, fontsize=9, wrap=True)
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise UsageError(f"--plot {path} cannot be written: {error.strerror}.") from error
