"""What the process that starts the agents of a job passes to them, in one variable."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..contract.environment import HAND_OVER
from ..errors import UsageError


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """Found out once, outside of any container, for all agents of one start."""

    run_id: str
    """For which start of which job this holds; another one's is not believed."""
    master_addr: str
    master_port: int
    end_time_s: float | None = None
    grace_s: float | None = None
    kill_wait_s: float | None = None
    restarts_used: int = 0
    """Failures that starts of this job before a requeue have used up of --max-restarts."""

    def to_environ(self) -> dict[str, str]:
        """Return the variable."""
        return {HAND_OVER: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], run_id: str) -> "HandOver | None":
        """Read the variable; None where this start has none.

        Raises:
            UsageError: It is not ours.
        """
        text = environ.get(HAND_OVER)
        if not text:
            return None
        try:
            read = cls(**json.loads(text))
        except (ValueError, TypeError):
            raise UsageError(
                f"{HAND_OVER}={text} in the environment was not written by this version of "
                "relaunch. Unset it."
            ) from None
        return read if read.run_id == run_id else None
