"""Where the names of a run's starts stand above its curves, so that each can be read; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...run_folder.history import AttemptRecord
from ...run_folder.tables import plural

MOST_ROWS = 7
"""With more, starts that lie close together share a name."""
_NAMED = 2
"""Strategies that a shared name has room for."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """The name of one start, or of several that follow one another."""

    first: int
    """Number of the first of them."""
    last: int
    text: str
    step: int
    """Where the first of them began."""
    left: float
    """Of the text's left end; 0 is the left end of the diagram, 1 the right one."""
    row: int
    """0 is the lowest, next to the diagram."""


def place(
    attempts: Sequence[AttemptRecord], end_step: int, width_of: Callable[[str], float]
) -> list[Label]:
    """Return the labels, so that no two lie upon one another and every start is in one.

    Starts that change nothing and are close are joined ("3-5: fsdp, 2 ranks"); if the rows do not
    suffice, all that are close ("3-9: ddp, fsdp, ...").

    Args:
        attempts: oldest first.
        end_step: at the right end of the diagram.
        width_of: the width of a text, as a share of the diagram's.
    """
    end_step = max(end_step, 1)
    for is_shared in (_goes_on_as_before, lambda group, attempt: True):
        groups: list[list[AttemptRecord]] = []
        for attempt in attempts:
            near = groups and _is_near(groups[-1], attempt, end_step, width_of)
            if near and is_shared(groups[-1], attempt):
                groups[-1].append(attempt)
            else:
                groups.append([attempt])
        labels = _in_rows(groups, end_step, width_of)
        if max((label.row for label in labels), default=0) < MOST_ROWS:
            break
    return labels


def _is_near(
    group: Sequence[AttemptRecord],
    attempt: AttemptRecord,
    end_step: int,
    width_of: Callable[[str], float],
) -> bool:
    return (attempt.step - group[0].step) / end_step < width_of(_text([*group, attempt]))


def _goes_on_as_before(group: Sequence[AttemptRecord], attempt: AttemptRecord) -> bool:
    return _kind(group[-1]) == _kind(attempt)


def _kind(attempt: AttemptRecord) -> tuple[str, int, str]:
    return attempt.strategy, attempt.world_size, attempt.precision


def _text(group: Sequence[AttemptRecord]) -> str:
    first, last = group[0], group[-1]
    numbers = f"{first.number}" if first is last else f"{first.number}-{last.number}"
    if len({_kind(attempt) for attempt in group}) == 1:
        return f"{numbers}: {first.strategy}, {plural(first.world_size, 'rank')}"
    names = list(dict.fromkeys(attempt.strategy for attempt in group))
    more = ", ..." if len(names) > _NAMED else ""
    return f"{numbers}: {', '.join(names[:_NAMED])}{more}"


def _in_rows(
    groups: Sequence[Sequence[AttemptRecord]], end_step: int, width_of: Callable[[str], float]
) -> list[Label]:
    ends: list[float] = []
    labels = []
    for group in groups:
        text = _text(group)
        width = width_of(text)
        # A late start's name ends with the diagram, and does not run over its edge.
        left = max(0.0, min(group[0].step / end_step, 1.0 - width))
        row = next((row for row, end in enumerate(ends) if end <= left), len(ends))
        ends[row:] = [left + width, *ends[row + 1 :]]
        labels.append(
            Label(
                first=group[0].number,
                last=group[-1].number,
                text=text,
                step=group[0].step,
                left=left,
                row=row,
            )
        )
    return labels
