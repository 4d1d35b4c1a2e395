"""The story of a loop that is not ours: console, events.jsonl and metrics.jsonl."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from strategies import Agreed, Restored
from strategies.parallel.live.several import rates_of
from strategies.parallel.state.trained_state import TrainedState

from ...run_folder.metric_text import metrics_text, without_nan
from ...run_folder.tables import plural
from ..context import RunContext
from ..reporting.resume_report import ResumeReport
from ..reporting.save_log import SaveLog
from ..reporting.start_table import model_text, places_text, start_table


class _Seen(NamedTuple):
    """A step, of which few become a record or a line."""

    step: int
    epoch: int
    time_s: float
    rates: dict[str, float]
    step_s: float

    def record(self, attempt: int) -> dict[str, Any]:
        return {
            "step": self.step,
            "epoch": self.epoch,
            "attempt": attempt,
            "time": round(self.time_s, 3),
            **self.rates,
            "step_s": round(self.step_s, 6),
        }

    def line(self, loss: float) -> str:
        return (
            f"step {self.step}  epoch {self.epoch}  loss {loss:.4g}  lr {self.rates['lr']:.3g}"
            f"  {self.step_s:.3g} s/step"
        )


class OwnLog(SaveLog):
    """Prints and records events on the coordinator; does nothing on other ranks."""

    def __init__(self, run: RunContext, strategy: TrainedState, *, log_every: int) -> None:
        super().__init__(run, run.asked_strategy)
        self._strategy = strategy
        self._log_every = log_every
        self._pending: _Seen | None = None
        """The newest step, until its loss is known."""
        self._measured: dict[str, float] = {}
        """After that step."""
        self._is_wanted = False
        self._since_s = run.clock()

    def started(self, step: int, data: str, restored: Restored | None) -> None:
        """Report a start or a resume. Called on every rank."""
        self._newest = None if restored is None else restored.step
        places = self._run.places()
        if not self._is_coordinator:
            return
        run, lost = self._run, self._record_start(step, restored)
        if restored is None:
            run.say(f"starting at step 0 of the script's own loop, {self._described}")
        catalogue = self._strategy.catalogue
        trained, frozen = catalogue.trainable, catalogue.frozen
        rows = [
            ("run folder", f"{self._folder.path} (attempt {run.attempt})"),
            ("runs on", places_text(places)),
            ("model", model_text(trained.values(), frozen.values())),
            ("data", data),
        ]
        run.say(start_table(rows))
        self._report_lost(lost, step, restored)

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
            f"{self._described}"
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

    def step(self, step: int, epoch: int, agreed: Agreed | None) -> None:
        """Report a step. Its loss comes out of the next boundary, and completes the record then."""
        if not self._is_coordinator:
            return
        self.flush(agreed)
        now_s, rates = self._run.clock(), rates_of(self._strategy)
        self._pending = _Seen(step, epoch, time.time(), rates, now_s - self._since_s)
        self._since_s, self._is_wanted = now_s, step % self._log_every == 0

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Report an evaluation after the newest step."""
        if self._is_coordinator:
            self._measured |= metrics
            self._is_wanted = True
            step = 0 if self._pending is None else self._pending.step
            self._run.say(f"step {step}: {metrics_text(dict(metrics))}")

    def flush(self, agreed: Agreed | None) -> None:
        """Write the record of the newest step, once its loss is known."""
        seen, self._pending = self._pending, None
        measured, self._measured = self._measured, {}
        if seen is None or agreed is None or agreed.step != seen.step:
            return
        if self._is_wanted:
            record = {**seen.record(self._run.attempt), **measured, "loss": agreed.loss}
            self._folder.metrics(without_nan(record))
        if self._run.console.wants_progress():
            self._run.console.progress(
                lambda width: seen.line(agreed.loss)[: width or None],
            )
