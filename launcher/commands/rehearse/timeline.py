"""The timeline of a rehearsal as a picture: a bar for each command, a mark for each fault."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .judge import Verdict

_ROW, _LEFT, _WIDTH, _TOP = 18, 210, 640, 28
_FIRST, _AGAIN, _FAULT, _WRONG = "#9db4c0", "#5c8a6b", "#c0392b", "#c0392b"


def timeline(verdicts: Sequence[Verdict]) -> str:
    """Return an SVG: a row for each fault, seconds from left to right. Pure."""
    longest = max((end for v in verdicts for _, end in v.outcome.spans), default=1.0)
    height = _TOP + _ROW * len(verdicts) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="14">0 s</text>',
        f'<text x="{_LEFT + _WIDTH}" y="14" text-anchor="end">{longest:.1f} s</text>',
    ]
    for row, verdict in enumerate(verdicts):
        parts += _row(verdict, _TOP + _ROW * row, _WIDTH / longest)
    return "\n".join([*parts, "</svg>", ""])


def _row(verdict: Verdict, top: int, scale: float) -> list[str]:
    outcome = verdict.outcome
    colour = _WRONG if verdict.wrong else "#999999" if verdict.is_left_out else "black"
    name = escape(f"{outcome.fault.number} {outcome.fault.kind.name}")
    parts = [f'<text x="4" y="{top + 11}" fill="{colour}">{name}</text>']
    for number, (begin, end) in enumerate(outcome.spans):
        fill = _AGAIN if number else _FIRST
        parts.append(
            f'<rect x="{_LEFT + begin * scale:.1f}" y="{top}" height="{_ROW - 5}" '
            f'width="{max(1.0, (end - begin) * scale):.1f}" fill="{fill}"/>'
        )
    if outcome.fault_s is not None and outcome.spans:
        x = _LEFT + outcome.fault_s * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 2}" y2="{top + _ROW - 3}" '
            f'stroke="{_FAULT}" stroke-width="2"/>'
        )
    return parts
