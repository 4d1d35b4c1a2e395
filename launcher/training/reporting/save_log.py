"""What is reported of a run's starts, saves and end, whichever loop they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from checkpointing import SavedCheckpoint, SaveFailedError
from strategies import Decision, Ending, Restored

from ...run_folder.lost_work import LostWork, newest_saved
from ...run_folder.progress_line import duration_text
from ...run_folder.tables import plural, size_text
from ..context import RunContext
from .process_age import age_s

if TYPE_CHECKING:
    from ..run_state import RunState

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


class SaveLog:
    """Reports starts, saves and the end, on the coordinator; the other ranks' copies are silent."""

    def __init__(self, run: RunContext, strategy: str) -> None:
        self._run = run
        self._strategy_name = strategy
        self._described = run.describe(strategy)
        self._folder = run.folder
        self._is_coordinator = run.ranks.is_coordinator
        self._failed_in_a_row = 0
        self._newest: int | None = None

    def _record_start(self, step: int, restored: Restored | None) -> LostWork:
        """Write the event of a start; return the repeated work. Called on the coordinator only."""
        run, lost = self._run, self._folder.forget_metrics_after(step)
        self._folder.event(
            "start",
            attempt=run.attempt,
            step=step,
            strategy=self._strategy_name,
            world_size=run.ranks.world_size,
            precision=run.precision.name,
            device=run.ranks.device.type,
            resumed=restored is not None,
            start_s=round(age_s(of_launcher=run.is_first_start_of_launcher), 3),
            lost_steps=lost.steps,
            lost_s=round(lost.seconds, 3),
        )
        return lost

    def _report_lost(self, lost: LostWork, step: int, restored: Restored | None) -> None:
        """Print the work that is repeated after a resume at `step`, if anything is."""
        saved = newest_saved(self._run.past_events)
        if saved > step and (restored is None or saved not in restored.damaged):
            self._run.warn(
                f"the checkpoint of step {saved} was saved, but is no longer in "
                f"{self._folder.checkpoints.folder}. If its disk is not mounted, or it was moved, "
                "stop this run, put it back and start again."
            )
        if lost.steps:
            self._run.say(
                f"{lost.steps} steps after step {step} had been done: about "
                f"{duration_text(lost.seconds)} of work is repeated."
            )

    def _report_refused(self, restored: Restored) -> None:
        """Report the damaged checkpoints that a resume has passed over."""
        for damage in restored.damaged.values():
            self._folder.event("checkpoint refused", reason=damage)
            self._run.warn(f"{damage} Falling back to step {restored.step}.")

    def best(self, step: int, name: str, value: float, *, seconds: float, stall_s: float) -> None:
        """Report an evaluation that was the best so far, and whose weights were committed.

        Args:
            step: of the evaluation.
            name: of the metric.
            value: of the metric.
            seconds: from the copy of the weights to the commit.
            stall_s: how long the training stood still for it.
        """
        if self._is_coordinator:
            self._folder.event(
                "best",
                step=step,
                monitor=name,
                value=value,
                seconds=round(seconds, 3),
                stall_s=round(stall_s, 3),
            )

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
            self._run.say(
                f"saved step {saved.step}: {size_text(saved.size_bytes)} in {seconds:.2f} s; "
                f"the training waited for {seconds if stall_s is None else stall_s:.2f} s of it"
            )

    def save_failed(self, step: int, error: SaveFailedError) -> None:
        """Report a checkpoint that could not be made; the run continues."""
        self._failed_in_a_row += 1
        if not self._is_coordinator:
            return
        self._folder.event("save failed", step=step, reason=str(error))
        self._run.warn(f"could not save at step {step}: {error}")
        if self._failed_in_a_row >= LOUD_AFTER:
            self._folder.event(
                "saves keep failing", in_a_row=self._failed_in_a_row, newest=self._newest
            )
            self._run.warn(failing_saves(self._failed_in_a_row, self._newest, step))

    def ended(self, decision: Decision, state: RunState, newest_step: int | None) -> None:
        """Report why the loop ended.

        Args:
            decision: what was decided at the last boundary.
            state: where the run is.
            newest_step: of the newest checkpoint.
        """
        if not self._is_coordinator:
            return
        assert decision.ending is not None
        step = state.step
        self._folder.event(
            "end",
            attempt=self._run.attempt,
            step=step,
            ending=decision.ending.value,
            reason=decision.reason,
            newest_step=newest_step,
            **({"empty_steps": state.empty_steps} if state.empty_steps else {}),
        )
        if decision.ending is Ending.PREEMPTED and newest_step is None:
            return  # the error that follows says it
        if decision.ending is Ending.PREEMPTED:
            cause = self._run.preemption.cause
            because = f" ({cause})" if cause else ""
            done = f"saved step {step}. The same command resumes the run."
            if newest_step != step:
                done = f"at step {step}. The same command resumes from step {newest_step}."
            self._run.say(f"{decision.reason}{because}: {done}")
        else:
            empty = plural(state.empty_steps, "step")
            nothing = f"; nothing counted in {empty}" if state.empty_steps else ""
            ending = decision.ending.value
            self._run.say(f"finished at step {step}: {ending}, {decision.reason}{nothing}")

    def already_over(self, decision: Decision) -> None:
        """Report a run that had finished before this start."""
        if self._is_coordinator:
            assert decision.ending is not None
            self._folder.event(
                "already over",
                attempt=self._run.attempt,
                ending=decision.ending.value,
                reason=decision.reason,
            )
            self._run.say(
                f"this run had finished already: {decision.ending}, {decision.reason}. "
                "To train from the beginning, choose another --run-dir."
            )
