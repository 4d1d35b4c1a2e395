"""How often a job may be requeued: freely while it makes progress. Recorded in the run folder."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..plan.assumed_folder import assumed_folder
from ..plan.launch_plan import LaunchPlan
from ..run_folder.jsonl import FOLDER, append_event, events_of

MOST_WITHOUT_PROGRESS = 5
"""Starts of one job in a row at the same step, whatever ended each of them."""
_STARTS = frozenset({"slurm start", "grid engine start"})
_REQUEUE = "requeue"


def saved_step(events: Sequence[Mapping[str, Any]]) -> int:
    """Return the step of the newest checkpoint that was reported; 0: none so far."""
    steps = [e["step"] for e in events if e.get("event") == "saved" and e.get("step") is not None]
    return max(steps, default=0)


def _is_of(event: Mapping[str, Any], job: int, task: int | None) -> bool:
    return event.get("job") == job and event.get("task") == task


def starts_without_progress(
    events: Sequence[Mapping[str, Any]], job: int, task: int | None = None
) -> int:
    """Return how many of the job's last starts began where the run stands now; pure."""
    now, count = saved_step(events), 0
    for event in reversed(events):
        if event.get("event") not in _STARTS:
            continue
        if not _is_of(event, job, task) or event.get("step") != now:
            break
        count += 1
    return count


def restarts_used(events: Sequence[Mapping[str, Any]], job: int, task: int | None = None) -> int:
    """Return how many of --max-restarts the job's starts have used up; pure."""
    used, of_this_job = 0, False
    for event in events:
        if event.get("event") in _STARTS:
            of_this_job = _is_of(event, job, task)
        elif event.get("event") == "attempt" and event.get("restart") and of_this_job:
            used += 1
    return used


def stuck_text(count: int, step: int) -> str:
    """Return why the job is not requeued."""
    return (
        f"the job was started {count} times at step {step} and made no progress: not restarting "
        "it. Check the log and save_every; a newly submitted job starts a new count."
    )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The record of one job in its run's folder."""

    job: int
    restart_count: int
    folder: Path | None
    """None: the script is of another kind, and how far it gets is not known."""
    scheduler: str = "slurm"
    """As the record names it."""
    task: int | None = None
    """Of an array whose elements share one number."""

    @classmethod
    def of(
        cls,
        plan: LaunchPlan,
        *,
        job: int,
        restart_count: int,
        task: int | None = None,
        scheduler: str = "slurm",
    ) -> "Budget":
        """Find the run folder, as far as the launcher can know it."""
        folder = assumed_folder(plan) if plan.uses_run else None
        return cls(
            job=job, restart_count=restart_count, folder=folder, task=task, scheduler=scheduler
        )

    def begin(self) -> str | None:
        """Record a start; return why there must be none."""
        return self._next(f"{self.scheduler} start", restarts=self.restart_count)

    def refuse(self, cause: str) -> str | None:
        """Record a requeue; return why there must be none."""
        return self._next(_REQUEUE, cause=str(cause))

    def _next(self, event: str, **details: Any) -> str | None:
        events = self._events()
        step, count = saved_step(events), starts_without_progress(events, self.job, self.task)
        if count >= MOST_WITHOUT_PROGRESS:
            return stuck_text(count, step)
        self._append(event, step=step, **details)
        return None

    def restarts_used(self) -> int:
        """Return how many restarts after a failure earlier starts of the job have used up."""
        return restarts_used(self._events(), self.job, self.task)

    def _append(self, kind: str, **details: Any) -> None:
        if self.folder is None:
            return
        with contextlib.suppress(OSError):  # the record is for later; the run is what counts
            self.folder.mkdir(parents=True, exist_ok=True)
            element = {} if self.task is None else {"task": self.task}
            append_event(self.folder, kind, job=self.job, **element, **details)

    def _events(self) -> list[dict[str, Any]]:
        """Return what was recorded, oldest first; a run may have said that it is kept elsewhere."""
        if self.folder is None:
            return []
        found = _read(self.folder)
        folders = [e["path"] for e in found if e.get("event") == FOLDER and e.get("path")]
        if folders:
            found = sorted(
                [*found, *_read(Path(folders[-1]))], key=lambda e: str(e.get("time", ""))
            )
        return found


def _read(folder: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(OSError):
        return list(events_of(folder))
    return []
