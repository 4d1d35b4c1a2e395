"""What is recorded of every step: the progress line, metrics.jsonl and the trackers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from strategies import Agreed, BatchPlan, StepOutcome

from ...run_folder.metric_text import WEIGHTS_DIGEST, is_table, metrics_text, without_nan
from ...run_folder.progress_line import NextSave, Pace, Standing, progress_line
from ..context import RunContext
from ..recipe.interval import Every
from .step_result import StepResult
from .trackers import Trackers

if TYPE_CHECKING:
    from ..recipe.recipe import Recipe


class StepLog:
    """Tells of steps, on the coordinator; the other ranks' copies are silent."""

    def __init__(self, run: RunContext, recipe: Recipe, save_every: Every) -> None:
        self._run = run
        self._recipe = recipe
        self._save_every = save_every
        self._pending: dict[str, Any] | None = None
        """The newest step's record, which waits for its loss."""
        self._is_wanted = False
        """Whether it is to be written."""
        self._pace = Pace()
        self._boundary_s = run.clock()
        self._standing: Standing | None = None
        """Of the newest step, until its loss is known and its line is shown."""
        self._trackers: Trackers | None = None
        self._samples = 0
        self._busy_s = 0.0

    def begin(self, step: int) -> None:
        """Open the trackers of a start at `step`. Called on the coordinator only."""
        self._trackers = Trackers(
            self._recipe.track,
            self._run.folder.path,
            first_step=step,
            description=self._run.folder.description(),
            warn=self._run.warn,
        )
        self._boundary_s = self._run.clock()

    def tell_trackers(self, record: Mapping[str, Any]) -> None:
        """Tell a record of metrics.jsonl, or a test. Called on the coordinator only."""
        if self._trackers is not None:
            self._trackers.log(record)

    def drop_unwritten(self) -> None:
        """Forget a record that waits for its loss: its step is undone."""
        self._pending = self._standing = None

    def step(
        self,
        number: int,
        plan: BatchPlan,
        step: StepResult,
        rate: float,
        agreed: Agreed | None,
        since_save_s: float,
        *,
        must: bool = False,
    ) -> None:
        """Report a step. Its loss comes out of the next boundary, and completes the record then.

        Args:
            number: optimizer steps completed.
            plan: which data they had.
            step: the last of them.
            rate: of the first parameter group.
            agreed: what the ranks said at the former boundary.
            since_save_s: since the last save began.
            must: whether it is to have a record in any case.
        """
        if not self._run.ranks.is_coordinator:
            return
        self._complete(agreed)
        self._samples += plan.num_samples_in(number - 1)
        self._busy_s += step.seconds
        now = self._run.clock()
        self._pace = self._pace.after(now - self._boundary_s)
        self._boundary_s = now
        assert step.outcome is not None
        self._standing = self._standing_after(number, plan, step.outcome, rate, since_save_s)
        if agreed is None and not step.metrics:
            self._show(self._standing)  # the first: the line of any other waits for its loss
        is_due = number % self._recipe.log_every == 0
        self._is_wanted = is_due or must or bool(step.metrics) or not step.outcome.applied
        self._pending = {
            "step": number,
            "epoch": plan.epoch_of(number - 1),
            "samples": plan.position(number),
            "attempt": self._run.attempt,
            "time": round(time.time(), 3),
            "lr": rate,
            "grad_norm": step.outcome.grad_norm,
            "samples_per_s": self._standing.samples_per_s,
            **_flags(step.outcome),
            **_measured(step),
        }
        if is_due:  # else it would be the pace of the few steps between two records
            self._samples, self._busy_s = 0, 0.0

    def _standing_after(
        self, number: int, plan: BatchPlan, outcome: StepOutcome, rate: float, since_save_s: float
    ) -> Standing:
        """Return what the progress line shows after `number` steps, still without the loss."""
        return Standing(
            step=number,
            total_steps=plan.total_steps,
            epochs=plan.position(number) / plan.num_samples,
            total_epochs=plan.epochs,
            loss=None,
            rate=rate,
            grad_norm=outcome.grad_norm,
            samples_per_s=self._samples / max(self._busy_s, 1e-9),
            left_s=self._pace.left_s(plan.total_steps - number),
            next_save=next_save(self._save_every, number, since_save_s),
            deadline_s=self._deadline_s(),
        )

    def add_digest(self, digest: str) -> None:
        """Write the newest step's record in any case, with a digest of the weights."""
        if self._pending is not None:
            self._pending[WEIGHTS_DIGEST] = digest
            self._is_wanted = True

    def flush(self, agreed: Agreed | None) -> None:
        """Write the last record, whose loss was read when the boundary was drained."""
        if self._run.ranks.is_coordinator:
            self._complete(agreed)

    def _deadline_s(self) -> float | None:
        known = (self._run.preemption.deadline, self._run.end_time.now_s())
        limits = [at for at in known if at is not None]
        return min(limits) - time.time() if limits else None

    def complete(self, agreed: Agreed | None) -> dict[str, Any]:
        """Return the last record instead of writing it; empty on the other ranks."""
        return without_nan(self._take(agreed))

    def evaluated(self, record: Mapping[str, Any], step: StepResult) -> None:
        """Write a step's record, of an earlier start, with what was measured of it now."""
        if not self._run.ranks.is_coordinator or not (record or step.metrics):
            return
        now = {"attempt": self._run.attempt, "time": round(time.time(), 3)}
        whole = {"step": step.number + 1, **record, **now, **_measured(step)}
        self._write(without_nan(whole))
        self._run.say(f"step {step.number + 1}: {metrics_text(step.metrics)}")

    def _complete(self, agreed: Agreed | None) -> None:
        record, standing = self._take(agreed), self._standing
        if record:
            self._write(without_nan(record))
        if standing is None or agreed is None or agreed.step != standing.step:
            return
        self._standing = None  # reported
        standing = replace(standing, loss=agreed.loss)
        metrics = {k: v for k, v in record.items() if k.count("/") == 1 and not is_table(v)}
        if metrics:
            # What was measured stays on the screen; what changes with every step does not.
            self._run.say(progress_line(replace(standing, metrics=metrics)))
        else:
            self._show(standing)

    def _show(self, standing: Standing) -> None:
        if self._run.console.wants_progress():
            self._run.console.progress(lambda width: progress_line(standing, width))

    def _take(self, agreed: Agreed | None) -> dict[str, Any]:
        """Return the record that waits for its loss, with it; empty where the loss is not its."""
        record, self._pending = self._pending, None
        is_its = record is not None and agreed is not None and agreed.step == record["step"]
        if record is None or agreed is None or not (is_its and self._is_wanted):
            return {}
        return {**record, "loss": agreed.loss}

    def _write(self, record: dict[str, Any]) -> None:
        self._run.folder.metrics(record)
        self.tell_trackers(record)


def _flags(outcome: StepOutcome) -> dict[str, int]:
    return {
        **({} if outcome.applied else {"skipped": 1}),
        **({"empty": 1} if outcome.is_empty else {}),
    }


def _measured(step: StepResult) -> dict[str, Any]:
    if not step.metrics:
        return {}
    return {"evaluation_s": round(step.evaluation_s, 4), **step.metrics}


def next_save(every: Every, step: int, since_last_s: float) -> NextSave:
    """Return when the next checkpoint of a run that has completed `step` steps is due; pure."""
    if every.steps is not None:
        return NextSave(step=step - step % every.steps + every.steps)
    if every.seconds is None:
        return NextSave()  # "auto": by what saves are seen to cost
    return NextSave(left_s=max(0.0, every.seconds - since_last_s))
