"""What a person sees and reads later: the console, events.jsonl and metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from checkpointing import SavedCheckpoint, SaveFailedError
from strategies import IMPORTED, Agreed, BatchPlan, Decision, Ending, Restored

from .resume_report import report_resume

if TYPE_CHECKING:
    from .run import Run
    from .step import Step


LOUD_AFTER = 3
"""Failed saves in a row that are taken for bad luck."""


def failing_saves(in_a_row: int, newest: int | None, step: int) -> str:
    """Return the warning of a run that no longer gets its state to the disk. Pure."""
    at_stake = (
        "this run has no checkpoint: all its work would be lost"
        if newest is None
        else f"the newest checkpoint is of step {newest}: the {step - newest} steps since then "
        "would be lost"
    )
    return (
        f"THE LAST {in_a_row} SAVES HAVE ALL FAILED, and {at_stake} if the run ended now. "
        "Look at the disk of the run folder: its space, quota and health."
    )


class ProgressLog:
    """Tells the story of a run, on the coordinator; the other ranks' copies are silent."""

    def __init__(self, run: Run, *, every: int, total_steps: int) -> None:
        self._run = run
        self._folder = run.folder
        self._is_coordinator = run.ranks.is_coordinator
        self._every = every
        self._total_steps = total_steps
        self._pending: dict[str, float | int] | None = None
        self._failed_in_a_row = 0
        self._newest: int | None = None

    def started(self, step: int, restored: Restored | None) -> None:
        """Report a start or a resume."""
        self._newest = None if restored is None else restored.step
        if not self._is_coordinator:
            return
        self._folder.forget_metrics_after(step)
        self._folder.event(
            "start",
            attempt=self._run.attempt,
            step=step,
            strategy=self._run.strategy,
            world_size=self._run.ranks.world_size,
            precision=self._run.precision.name,
            device=self._run.ranks.device.type,
            resumed=restored is not None,
        )
        if restored is None:
            self._run.say(f"starting at step 0 of {self._total_steps}, {self._run.describe()}")

    def restored(
        self, restored: Restored, changes: list[str], objects: Collection[str] = ()
    ) -> None:
        """Report what a resume took over and what changed."""
        if not self._is_coordinator:
            return
        for damage in restored.damaged.values():
            self._folder.event("checkpoint refused", reason=damage)
            self._run.warn(f"{damage} Falling back to step {restored.step}.")
        if IMPORTED in restored.state:
            taken: Any = restored.state[IMPORTED]
            self._run.say(
                f"starting at step 0 of {self._total_steps} with what was imported from "
                f"{taken['from']} ({taken['kind']}), {self._run.describe()}"
            )
            return
        before = restored.created_by
        was = f"{before['strategy']} on {before['world_size']} ranks, {before['precision']}"
        self._run.say(
            f"going on from step {restored.step} of {self._total_steps} (saved under {was}), "
            f"{self._run.describe()}"
        )
        for change in changes:
            self._folder.event("changed", what=change)
            self._run.say(f"changed by the script: {change}")
        report = report_resume(
            restored.state,
            before,
            now={
                "strategy": self._run.strategy,
                "world_size": self._run.ranks.world_size,
                "precision": self._run.precision.name,
            },
            objects=objects,
            changes=changes,
        )
        self._folder.event("resumed", step=restored.step, **asdict(report))
        for line in report.lines():
            self._run.say(line)

    def step(
        self, number: int, plan: BatchPlan, step: Step, rate: float, agreed: Agreed | None
    ) -> None:
        """Report a step. Its loss comes out of the next boundary, and completes the record then."""
        if not self._is_coordinator:
            return
        self._complete(agreed)
        assert step.outcome is not None
        if number % self._every and not step.metrics and step.outcome.applied:
            return
        self._pending = {
            "step": number,
            "epoch": plan.epoch_of(number - 1),
            "samples": plan.position(number),
            "lr": rate,
            "grad_norm": step.outcome.grad_norm,
            "samples_per_s": plan.num_samples_in(number - 1) / max(step.seconds, 1e-9),
            **({} if step.outcome.applied else {"skipped": 1}),
            **step.metrics,
        }

    def flush(self, agreed: Agreed | None) -> None:
        """Write the last record, whose loss was read when the boundary was drained."""
        if self._is_coordinator:
            self._complete(agreed)

    def measured(self, metrics: dict[str, float]) -> None:
        """Report a test."""
        if self._is_coordinator:
            self._folder.event("test", **metrics)
            self._run.say("  ".join(f"{name} {value:.4g}" for name, value in metrics.items()))

    def saved(
        self,
        saved: SavedCheckpoint,
        seconds: float,
        stall_s: float | None = None,
        interval_s: float | None = None,
    ) -> None:
        """Report a checkpoint.

        Args:
            saved: what was committed.
            seconds: from the copy of the state to the commit.
            stall_s: how long the training stood still for it; None: all the time.
            interval_s: until the next one, where it goes by time.
        """
        self._failed_in_a_row, self._newest = 0, saved.step
        if self._is_coordinator:
            self._folder.event(
                "saved",
                step=saved.step,
                size_bytes=saved.size_bytes,
                seconds=round(seconds, 3),
                stall_s=round(seconds if stall_s is None else stall_s, 3),
                **({} if interval_s is None else {"next_in_s": round(interval_s, 1)}),
            )

    def save_failed(self, step: int, error: SaveFailedError) -> None:
        """Report a checkpoint that could not be made; the run goes on."""
        self._failed_in_a_row += 1
        if not self._is_coordinator:
            return
        self._folder.event("save failed", step=step, reason=str(error))
        self._run.warn(f"could not save at step {step}: {error} Training goes on.")
        if self._failed_in_a_row >= LOUD_AFTER:
            self._folder.event(
                "saves keep failing", in_a_row=self._failed_in_a_row, newest=self._newest
            )
            self._run.warn(failing_saves(self._failed_in_a_row, self._newest, step))

    def ended(self, decision: Decision, step: int) -> None:
        """Report why the loop ended."""
        if not self._is_coordinator:
            return
        assert decision.ending is not None
        self._folder.event(
            "end",
            attempt=self._run.attempt,
            step=step,
            ending=decision.ending.value,
            reason=decision.reason,
        )
        if decision.ending is Ending.PREEMPTED:
            cause = self._run.preemption.cause
            told = f" ({cause})" if cause else ""
            self._run.say(f"asked to leave{told}: saved step {step}. The same command goes on.")
        else:
            self._run.say(f"finished at step {step}: {decision.ending.value}, {decision.reason}")

    def already_over(self, decision: Decision) -> None:
        """Report a run that had finished before this start."""
        if self._is_coordinator:
            self._run.say(
                f"this run had finished already: {decision.ending}, {decision.reason}. "
                "To train anew, choose another --run-dir."
            )

    def _complete(self, agreed: Agreed | None) -> None:
        record, self._pending = self._pending, None
        if record is None or agreed is None or agreed.step != record["step"]:
            return
        # JSON has no nan: a value that is not a number is left out of its record.
        whole = {**record, "loss": agreed.loss}
        self._folder.metrics({k: v for k, v in whole.items() if math.isfinite(v)})
        self._run.say(
            f"step {record['step']}/{self._total_steps}  epoch {record['epoch']}  "
            f"loss {agreed.loss:.4g}  lr {record['lr']:.3g}  grad {record['grad_norm']:.3g}  "
            f"{record['samples_per_s']:.0f} samples/s"
            + "".join(f"  {k} {v:.4g}" for k, v in record.items() if "/" in k)
        )
