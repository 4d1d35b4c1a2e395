"""The story of a loop that is not ours: console, events.jsonl and metrics.jsonl."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from strategies import Agreed, Restored
from strategies.parallel.state.trained_state import TrainedState

from ...run_folder.metric_text import metrics_text, without_nan
from ...run_folder.tables import plural
from ..reporting.resume_report import ResumeReport
from ..reporting.save_log import SaveLog
from ..reporting.start_table import model_text, places_text, start_table
from .start import OwnLoopContext


class OwnLog(SaveLog):
    """Tells the story, on the coordinator; the other ranks' copies are silent."""

    _run: OwnLoopContext

    def __init__(self, run: OwnLoopContext, *, log_every: int) -> None:
        super().__init__(run)
        self._log_every = log_every
        self._pending: dict[str, Any] = {}
        self._is_wanted = False
        self._since_s = run.clock()

    def started(
        self, strategy: TrainedState, step: int, data: str, restored: Restored | None
    ) -> None:
        """Report a start or a resume. Called on every rank."""
        self._newest = None if restored is None else restored.step
        places = self._run.places()
        if not self._is_coordinator:
            return
        run, lost = self._run, self._record_start(step, restored)
        if restored is None:
            run.say(f"starting at step 0 of the script's own loop, {run.describe()}")
        trained, frozen = strategy.catalogue.trainable, strategy.catalogue.frozen
        rows = [
            ("run folder", f"{self._folder.path} (attempt {run.attempt})"),
            ("runs on", places_text(places)),
            ("model", model_text(trained.values(), frozen.values())),
            ("data", data),
        ]
        run.say(start_table(rows))
        self._report_lost(lost, step)

    def restored(self, restored: Restored, report: ResumeReport, by_script: Sequence[str]) -> None:
        """Report what a resume took over, what changed and what is not promised.

        Args:
            restored: the checkpoint.
            report: what became of it.
            by_script: of the changes, those that the script has made.
        """
        if not self._is_coordinator:
            return
        self._report_refused(restored)
        before = restored.created_by
        ranks = plural(before["world_size"], "rank")
        self._run.say(
            f"resuming from step {restored.step} (saved under {before['strategy']} on {ranks}), "
            f"{self._run.describe()}"
        )
        for change in by_script:
            self._folder.event("changed", what=change)
        self._folder.event("resumed", step=restored.step, **asdict(report))
        for line in report.lines():
            self._run.say(line)

    def noted(self, sentences: Sequence[str]) -> None:
        """Report what is to be known of the whole run."""
        for sentence in sentences if self._is_coordinator else ():
            self._folder.event("note", sentence=sentence)
            self._run.warn(f"{sentence}.")

    def step(
        self, step: int, epoch: int, rates: Mapping[str, float], agreed: Agreed | None
    ) -> None:
        """Report a step. Its loss comes out of the next boundary, and completes the record then."""
        if not self._is_coordinator:
            return
        self.flush(agreed)
        now_s = self._run.clock()
        self._pending = {
            "step": step,
            "epoch": epoch,
            "attempt": self._run.attempt,
            "time": round(time.time(), 3),
            **rates,
            "step_s": round(now_s - self._since_s, 6),
        }
        self._since_s, self._is_wanted = now_s, step % self._log_every == 0

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Report an evaluation after the newest step."""
        if self._is_coordinator:
            self._pending |= metrics
            self._is_wanted = True
            self._run.say(f"step {self._pending.get('step', 0)}: {metrics_text(dict(metrics))}")

    def flush(self, agreed: Agreed | None) -> None:
        """Write the record of the newest step, once its loss is known."""
        record, self._pending = self._pending, {}
        if not self._is_coordinator or not record or agreed is None:
            return
        if agreed.step != record["step"]:
            return
        if self._is_wanted:
            self._folder.metrics(without_nan({**record, "loss": agreed.loss}))
        if self._run.console.wants_progress():
            self._run.console.progress(
                lambda width: _line(record, agreed.loss)[: width or None],
            )

    def already_over(self, reason: str) -> None:
        """Report a run that had finished before this start."""
        if self._is_coordinator:
            self._folder.event("already over", attempt=self._run.attempt, reason=reason)
            self._run.say(
                f"this run had finished already: {reason}. To train from the beginning, choose "
                "another --run-dir."
            )


def _line(record: Mapping[str, Any], loss: float) -> str:
    return (
        f"step {record['step']}  epoch {record['epoch']}  loss {loss:.4g}  lr {record['lr']:.3g}"
        f"  {record['step_s']:.3g} s/step"
    )
