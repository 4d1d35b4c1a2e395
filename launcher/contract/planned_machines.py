"""What `relaunch plan` passes to a script about the planned machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

PLAN = "RELAUNCH_PLAN"


@dataclass(frozen=True, kw_only=True)
class PlannedMachines:
    """The machines on which a run would be started."""

    ranks: int
    ranks_per_node: int
    gpu_memory_bytes: int
    write_bytes_per_s: float
    """Of one node, to where the checkpoints go."""
    answer: str
    """The file in which the script leaves what was found, as JSON."""

    def text(self) -> str:
        """Return it for the environment."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str | None) -> PlannedMachines | None:
        """Return what `text` has written; None where it is not set."""
        return None if not text else cls(**json.loads(text))

    @property
    def answer_file(self) -> Path:
        """Where the script leaves what was found."""
        return Path(self.answer)
