"""Where a run's time went; pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from .history import RunFacts


@dataclass(frozen=True, kw_only=True)
class Goodput:
    """Seconds from the first command to the last record, each counted once."""

    training_s: float
    evaluating_s: float
    saving_s: float
    """In which the training stood still for a checkpoint or for the best weights."""
    lost_s: float
    """Work that was done again after an interruption."""
    starting_s: float
    """From each command to the first step."""
    waiting_s: float
    """Between the end of an attempt and the next command."""

    @property
    def total_s(self) -> float:
        """All of it."""
        return sum(seconds for _, seconds in self.rows())

    def rows(self) -> list[tuple[str, float]]:
        """Return what the time went into, with its seconds."""
        return [
            ("training", self.training_s),
            ("evaluation", self.evaluating_s),
            ("saving", self.saving_s),
            ("lost work", self.lost_s),
            ("starting", self.starting_s),
            ("waiting between attempts", self.waiting_s),
        ]

    def share(self, seconds: float) -> float:
        """Return a part as a share of the whole, 0 to 1."""
        return seconds / self.total_s if self.total_s > 0 else 0.0


def goodput(facts: RunFacts) -> Goodput:
    """Return where the time of a run went, as far as its folder knows."""
    attempts = facts.attempts
    in_loop_s = sum(max(0.0, a.last_sign_s - a.began_s) for a in attempts)
    evaluating_s = facts.records.evaluating_s
    saving_s = sum(e["stall_s"] for e in facts.of("saved"))
    saving_s += sum(e.get("stall_s", e.get("seconds", 0.0)) for e in facts.of("best"))
    lost_s = sum(a.lost_s for a in attempts)
    return Goodput(
        training_s=max(0.0, in_loop_s - evaluating_s - saving_s - lost_s),
        evaluating_s=evaluating_s,
        saving_s=saving_s,
        lost_s=lost_s,
        starting_s=sum(a.start_s for a in attempts),
        waiting_s=sum(max(0.0, b.command_s - a.last_sign_s) for a, b in pairwise(attempts)),
    )
