"""The progress line of a run; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GAP = "  "


@dataclass(frozen=True, kw_only=True)
class NextSave:
    """When the next checkpoint is due; at most one of the two is set."""

    step: int | None = None
    left_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a run is."""

    step: int
    """Optimizer steps completed."""
    total_steps: int
    epochs: float
    """Epochs completed, with the part of the running one."""
    total_epochs: int
    loss: float | None
    """Mean training loss of this very step; None: it is not known yet."""
    rate: float
    grad_norm: float
    samples_per_s: float
    left_s: float | None
    """Until the last step, if the run is not stopped before; None before anything is known."""
    next_save: NextSave = field(default_factory=NextSave)
    deadline_s: float | None = None
    """Until this rank is killed; None where no limit is known."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was measured at this step."""


def progress_line(standing: Standing, width: int | None = None) -> str:
    """Return the line, in at most `width` characters: what matters least goes first."""
    parts = _parts(standing)
    while width is not None and len(GAP.join(text for _, text in parts)) > width and len(parts) > 1:
        parts.remove(max(parts, key=lambda part: part[0]))
    return GAP.join(text for _, text in parts)[:width]


def _parts(s: Standing) -> list[tuple[int, str]]:
    """Return each part with its place in the order in which they are given up, 0 the last."""
    parts = [(0, f"step {s.step}/{s.total_steps}"), (5, f"epoch {s.epochs:.2f}/{s.total_epochs}")]
    if s.loss is not None:
        parts.append((1, f"loss {s.loss:.4g}"))
    parts += [
        (6, f"lr {s.rate:.3g}"),
        (8, f"grad {s.grad_norm:.3g}"),
        (7, f"{s.samples_per_s:.4g} samples/s"),
    ]
    parts += [(4, f"{name} {value:.4g}") for name, value in s.metrics.items()]
    if s.left_s is not None and s.step < s.total_steps:
        parts.append((2, f"{duration_text(s.left_s)} left"))
    if s.next_save.step is not None and s.next_save.step < s.total_steps:
        parts.append((9, f"save at step {s.next_save.step}"))
    if s.next_save.left_s is not None and (s.left_s is None or s.next_save.left_s < s.left_s):
        parts.append((9, f"save in {duration_text(s.next_save.left_s)}"))
    if s.deadline_s is not None:
        parts.append((3, f"deadline in {duration_text(s.deadline_s)}"))
    return parts


def duration_text(seconds: float) -> str:
    """Return a time as "42 s", "1:07 min", "2:05 h" or "3.4 days"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 48 * 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
    return f"{whole / 86400:.1f} days"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds from one boundary to the next, as a mean that forgets; whatever they went into."""

    total_s: float = 0.0
    weight: float = 0.0

    def after(self, seconds: float, *, forget: float = 0.02) -> Pace:
        """Return the pace after one more step."""
        return Pace(
            total_s=self.total_s * (1 - forget) + seconds, weight=self.weight * (1 - forget) + 1
        )

    def left_s(self, num_steps: int) -> float | None:
        """Return the seconds that so many steps will take; None before the first."""
        return self.total_s / self.weight * num_steps if self.weight else None
