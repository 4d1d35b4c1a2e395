"""The story of a run: what happens, printed on the console and in events.jsonl."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from checkpointing import StoredBefore, TensorSpec
from strategies import IMPORTED, BatchPlan, Metrics, Restored, Strategy
from strategies.data.streams.own_position import not_promised
from strategies.data.streams.streams import has_own_position

from ...run_folder.metric_text import metrics_text, without_nan
from ...run_folder.tables import plural
from ..context import RunContext
from ..recipe.interval import Every
from .empty_steps import empty_steps_sentence, refuse_if_nothing_ever_counts
from .resume_report import report_resume
from .save_log import SaveLog
from .start_table import (
    batch_text,
    data_text,
    intervals_text,
    model_text,
    named_text,
    places_text,
    restored_text,
    start_table,
)
from .step_log import StepLog

if TYPE_CHECKING:
    from ..recipe.recipe import Recipe

_EXACT_IS_FREE = ("ddp", "fsdp")
"""Where CPU ranks share memory, a step with `--exact` takes 0.87 to 1.04 times as long
(docs/exact.md)."""


class RunLog(SaveLog):
    """Tells the story of a run, on the coordinator; the other ranks' copies are silent."""

    def __init__(
        self, run: RunContext, recipe: Recipe, plan: BatchPlan, save_every: Every, strategy: str
    ) -> None:
        super().__init__(run, strategy)
        self._recipe = recipe
        self._plan = plan
        self._total_steps = plan.total_steps
        self._not_promised = (
            not_promised(recipe.train, run.ranks.world_size)
            if has_own_position(recipe.train)
            else []
        )
        self.records = StepLog(run, recipe, save_every)
        """The records of steps."""

    def started(self, strategy: Strategy, step: int, restored: Restored | None) -> None:
        """Report a start or a resume. Called on every rank."""
        self._newest = None if restored is None else restored.step
        places = self._run.places()
        if not self._is_coordinator:
            return
        run, lost = self._run, self._record_start(step, restored)
        if restored is None:
            run.say(f"starting at step 0 of {self._total_steps}, {self._described}")
            for phrase in self._not_promised:
                run.warn(f"of this training data is not promised: {phrase}.")
        catalogue = strategy.catalogue
        run.say(
            start_table(
                [
                    ("run folder", f"{self._folder.path} (attempt {run.attempt})"),
                    ("runs on", places_text(places)),
                    ("strategy", strategy_text(self._strategy_name, run)),
                    ("optimizer", "; ".join(strategy.notes)),
                    ("model", model_text(catalogue.trainable.values(), catalogue.frozen.values())),
                    ("data", data_text(self._plan)),
                    ("batch", batch_text(self._plan, run.ranks.world_size)),
                    ("intervals", intervals_text(self._recipe)),
                    ("taken over", restored_text(restored, self._plan)),
                ]
            )
        )
        self._report_lost(lost, step, restored)
        self.records.begin(step)

    def restored(
        self, restored: Restored, changes: list[str], objects: Collection[str] = ()
    ) -> None:
        """Report what a resume took over and what changed."""
        if not self._is_coordinator:
            return
        self._report_refused(restored)
        if IMPORTED in restored.state:
            taken: Any = restored.state[IMPORTED]
            self._run.say(
                f"starting at step 0 of {self._total_steps} with what was imported from "
                f"{taken['from']} ({taken['kind']}), {self._described}"
            )
            return
        before = restored.created_by
        ranks = plural(before["world_size"], "rank")
        was = f"{before['strategy']} on {ranks}, {before['precision']}"
        self._run.say(
            f"resuming from step {restored.step} of {self._total_steps} (saved under {was}), "
            f"{self._described}"
        )
        for change in changes:
            self._folder.event("changed", what=change)
            self._run.say(f"changed by the script: {change}")
        report = report_resume(
            restored.state,
            before,
            now={
                "strategy": self._strategy_name,
                "world_size": self._run.ranks.world_size,
                "precision": self._run.precision.name,
                **self._run.exact_conditions(),
            },
            objects=objects,
            changes=changes,
            own_stream=type(self._recipe.train).__name__ if self._not_promised else None,
            not_promised=self._not_promised,
        )
        self._folder.event("resumed", step=restored.step, **asdict(report))
        for line in report.lines():
            self._run.say(line)

    def took_weights(self, path: object) -> None:
        """Report that a new run does not begin at random."""
        if self._is_coordinator:
            self._folder.event("weights", path=str(path))
            self._run.say(f"the run begins with the weights in {path}")

    def named_weights(self, named: StoredBefore, frozen: Collection[TensorSpec]) -> None:
        """Report which frozen parameters checkpoints will name in the files of `weights=`."""
        if not self._is_coordinator:
            return
        paths = list(dict.fromkeys(one.path for one in named.named))
        self._folder.event(
            "named weights",
            paths=paths,
            tensors=len(named.tensors),
            size_bytes=sum(tensor.spec.size_bytes for tensor in named.tensors),
        )
        for line in named_text(named, frozen):
            self._run.say(line)

    def rolled_back(self, before: int, after: int, plan: BatchPlan, why: str) -> None:
        """Report that the run has rolled back, and which data it skips."""
        self.records.drop_unwritten()
        if not self._is_coordinator:
            return
        self._folder.forget_metrics_after(after)
        jump = plan.jumps[-1]
        first = plan.data_step(after) - jump.length
        self._folder.event(
            "rolled back",
            from_step=before,
            step=after,
            reason=why,
            jumped_steps=jump.length,
            jumped_data_steps=[first, plan.data_step(after) - 1],
        )
        self._run.warn(
            f"{why} Rolling back to step {after} and skipping the data of {jump.length} steps."
        )

    def measured(self, step: int, weights: str, metrics: Metrics) -> None:
        """Report a test of the best, last or averaged weights."""
        if self._is_coordinator:
            self._folder.event("test", weights=weights, **without_nan(metrics))
            self.records.tell_trackers({"step": step, **metrics})
            self._run.say(metrics_text(metrics))

    def noted(self, sentence: str) -> None:
        """Report what follows the number of ranks. Called on every rank."""
        if self._is_coordinator:
            self._folder.event("note", sentence=sentence)
            self._run.warn(f"{sentence}.")

    def empty_step(self, step: int, so_far: int) -> None:
        """Report a step in which nothing counted. Called on every rank.

        Raises:
            ConfigError: nothing has ever counted.
        """
        refuse_if_nothing_ever_counts(so_far, step + 1)
        sentence = empty_steps_sentence(so_far, step)
        if self._is_coordinator and sentence is not None:
            self._folder.event("empty step", step=step, so_far=so_far)
            self._run.warn(sentence)

    def rate_cut(self, step: int, sentence: str) -> None:
        """Report a cut of the learning rates."""
        if self._is_coordinator:
            self._folder.event("rate cut", step=step, reason=sentence)
            self._run.say(f"step {step}: {sentence}")

    def left_after_loop(self, where: str, step: int, *, asked: bool) -> None:
        """Report that the ranks leave after the training, whose end is saved."""
        if self._is_coordinator:
            self._folder.event("left", attempt=self._run.attempt, where=where, step=step)
            self._run.say(left_text(where, step, asked=asked, cause=self._run.preemption.cause))


def left_text(where: str, step: int, *, asked: bool, cause: str | None) -> str:
    """Return why the ranks leave after the training, and what the next start does; pure.

    Args:
        where: in which call.
        step: of the newest checkpoint.
        asked: they have a preemption notice; else the time that is left is too short.
        cause: of the notice, as far as it is known here.
    """
    reason = f"the time left is too short for {where}, which the next start will do"
    if asked:
        because = f" ({cause})" if cause else ""
        reason = f"preemption notice{because} in {where}, which will be repeated"
    return f"{reason}: the training is saved up to step {step}. The same command resumes the run."


def strategy_text(name: str, run: RunContext) -> str:
    """Return strategy and precision, and what of `--exact` is to be known."""
    text = f"{name}, {run.precision.name}"
    if run.exact:
        return f"{text}, the same bits on any number of ranks"
    if run.ranks.shares_memory and run.precision.name == "fp32" and name in _EXACT_IS_FREE:
        return f"{text} (with --exact at this speed: the same bits on any number of ranks)"
    return text
