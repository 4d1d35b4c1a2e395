"""The picture of a run: loss, measurements, rate, gradient norm and throughput over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...run_folder.history import RunFacts
from .labels import place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LETTER, _LABEL_GAP = 0.0058, 0.012
"""Of the labels of the starts, as shares of the diagram's width."""
_LOG_FROM = 1000.0
"""A perplexity begins so far above where it ends that it would be a flat line."""
_ROW_PT = 10
_WIDTH_IN, _PANEL_IN = 9.0, 1.9
_START, _BEST, _END = "0.45", "tab:green", "tab:red"


class NoMatplotlibError(Exception):
    """matplotlib is not installed."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One diagram: curves with the same unit."""

    label: str
    """Of the vertical axis, with the unit."""
    names: tuple[str, ...]
    """Of the records' entries."""
    log_from: float = math.inf
    """The vertical axis is logarithmic where the largest value is so many times the smallest."""


def panels(facts: RunFacts) -> list[Panel]:
    """Return what is to be drawn, from the top; pure."""
    measured = facts.records.metric_names()
    losses = tuple(name for name in measured if name.split("/", 1)[1] == "loss")
    groups: dict[str, list[str]] = {}
    for name in measured:
        if name not in losses:
            groups.setdefault(name.split("/", 1)[1], []).append(name)
    return [
        Panel(label="loss", names=("loss", *losses)),
        *(
            Panel(
                label=metric if len(names) > 1 else names[0],
                names=tuple(names),
                log_from=_LOG_FROM,
            )
            for metric, names in groups.items()
        ),
        Panel(label="learning rate", names=tuple(facts.records.rate_names())),
        Panel(label="gradient norm", names=("grad_norm",), log_from=30.0),
        Panel(label="samples / s", names=("samples_per_s",)),
    ]


def draw(facts: RunFacts, path: Path) -> None:
    """Write the picture.

    Raises:
        NoMatplotlibError: there is nothing to draw with.
        OSError: the file cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise NoMatplotlibError(
            "matplotlib is not installed. Install it with: pip install 'relaunch[plots]'."
        ) from error
    # A name with $ in it is no formula.
    with rc_context({"text.parse_math": False}):
        wanted = panels(facts)
        figure = Figure(figsize=(_WIDTH_IN, _PANEL_IN * len(wanted) + 1.0), layout="constrained")
        axes = list(figure.subplots(len(wanted), 1, sharex=True, squeeze=False)[:, 0])
        for axis, panel in zip(axes, wanted, strict=True):
            _draw_panel(axis, panel, facts)
        _label_starts(axes[0], facts)
        axes[-1].set_xlabel("optimizer step")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels(axes)
        figure.suptitle(facts.name, x=0.01, ha="left", fontweight="bold")
        unfinished = path.with_name(f".{path.name}.draft")
        figure.savefig(unfinished, dpi=130, format="png")
        unfinished.replace(path)


def _draw_panel(axis: Axes, panel: Panel, facts: RunFacts) -> None:
    for name in panel.names:
        steps, values = _curve(facts, name)
        sparse = "/" in name
        label = None if len(panel.names) == 1 else "training loss" if name == "loss" else name
        style: dict[str, Any] = {"marker": "o", "markersize": 3} if sparse else {}
        axis.plot(steps, values, linewidth=1.2, label=label, **style)
    _mark(axis, panel, facts)
    values = [value for name in panel.names for value in _curve(facts, name)[1]]
    if values and 0 < panel.log_from * min(values) < max(values):
        axis.set_yscale("log")
    axis.set_ylabel(panel.label)
    axis.grid(alpha=0.25)
    axis.set_xlim(-0.01 * max(facts.step, 1), 1.01 * max(facts.step, 1))
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    if axis.get_legend_handles_labels()[1]:
        # Where it covers least: a curve's end, often the best of it, is at the right.
        axis.legend(loc="best", fontsize="small", framealpha=0.9)


def _mark(axis: Axes, panel: Panel, facts: RunFacts) -> None:
    for attempt in facts.attempts[1:]:
        axis.axvline(attempt.step, color=_START, linestyle="--", linewidth=0.9)
    best = facts.best
    if best is not None and best["monitor"] in panel.names:
        axis.plot(
            [best["step"]],
            [best["value"]],
            marker="*",
            markersize=13,
            color=_BEST,
            linestyle="none",
            zorder=5,
            clip_on=False,
            label=f"best: {best['value']:.4g} at step {best['step']}",
        )
    if facts.is_over:
        last = facts.attempts[-1]
        # The label once, in the diagram on top.
        label = f"{last.ending} at step {last.end_step}" if panel.names[0] == "loss" else None
        axis.axvline(last.end_step, color=_END, linewidth=1.2, label=label)


def _label_starts(axis: Axes, facts: RunFacts) -> None:
    """Label above the diagrams the strategy and ranks of each attempt."""
    at_top = axis.get_xaxis_transform()
    labels = place(facts.attempts, facts.step, lambda text: _LABEL_GAP + _LETTER * len(text))
    above: dict[str, Any] = {
        "xycoords": at_top,
        "textcoords": "offset points",
        "annotation_clip": False,
    }
    line = {"arrowstyle": "-", "color": _START, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
    for label in labels:
        top_pt = _ROW_PT * (label.row + 1)
        axis.annotate("", xy=(label.step, 1), xytext=(0, top_pt), arrowprops=line, **above)
    for label in labels:  # upon all the lines
        axis.annotate(
            label.text,
            xy=(label.left * max(facts.step, 1), 1),
            xytext=(2, 3 + _ROW_PT * label.row),
            fontsize="x-small",
            color=_START,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
            **above,
        )


def _curve(facts: RunFacts, name: str) -> tuple[Sequence[int], Sequence[float]]:
    series = facts.records.series.get(name)
    points = [] if series is None else series.curve()
    return [point.step for point in points], [point.value for point in points]
