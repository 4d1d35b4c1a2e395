"""What `relaunch verify` and `relaunch rehearse` ask of a script: a few of its steps, observed.

It travels in the environment, through the launcher to the ranks, and changes nothing of the
script's but where it ends, how often it saves, and what it leaves to be compared.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

TRIAL = "RELAUNCH_TRIAL"
LONGEST_KEPT = 1_000_000
"""Checkpoints to keep in a trial: all."""


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """A run that ends early."""

    steps: int
    """It ends once so many optimizer steps are done, with a checkpoint, or earlier by itself."""
    save_every_steps: int | None = None
    """Save, and keep, a checkpoint each so many steps; None: as the script asks."""
    trace: str | None = None
    """The folder in which each rank notes what its micro-batches hold and give; None: nowhere."""
    notice_at: int | None = None
    """The first rank and its loader workers get SIGTERM before this step; None: never."""
    deterministic: bool = False
    """Ask torch for deterministic kernels."""
    pace_s: float = 0.0
    """Wait so long before each step, in seconds, so that it can be met from outside."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1.")

    def text(self) -> str:
        """Return it for the environment."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str | None) -> TrialSettings | None:
        """Return what `text` has written; None where it is not set."""
        return None if not text else cls(**json.loads(text))

    def trace_file(self, rank: int) -> Path | None:
        """Where a rank writes its notes, as JSON lines."""
        return None if self.trace is None else Path(self.trace) / f"rank-{rank}.jsonl"
