"""The end of the training loop: what is reported, and where a rank stands that ends alone."""

from __future__ import annotations

from strategies import Decision, Ending

from ..context import RunContext
from ..ending.agreed_end import require_checkpoint
from ..ending.mistakes import Standing
from ..run_state import Preempted, RunState
from .job_parts import JobParts
from .steps.step import Step


def report_end(run: RunContext, parts: JobParts, decision: Decision, state: RunState) -> None:
    """Report how the loop ended. Called on every rank.

    Raises:
        Preempted: the ranks are to leave.
        StrategyError: the ranks are to leave, and there is no checkpoint to resume from.
    """
    checkpointer = parts.checkpointer
    if decision.ending is Ending.PREEMPTED and checkpointer.newest_step != state.step:
        checkpointer.look_for_newest()
    parts.log.ended(decision, state, checkpointer.newest_step)
    if decision.ending is not Ending.PREEMPTED:
        return
    folder = run.folder.checkpoints.folder
    require_checkpoint(decision, state.step, checkpointer.newest_step, folder)
    raise Preempted


def standing(step: Step | None, state: RunState, newest_step: int | None) -> Standing:
    """Return where this rank is, with what of the run is not on the disk; pure.

    Args:
        step: the one that the script has; None: it is at a boundary.
        state: of the run.
        newest_step: of the newest checkpoint; None: there is none.
    """
    done = state.step
    if step is not None and step.outcome is not None and state.owed_evaluation is None:
        done += 1
    is_whole = step is None or not step.is_updating
    return Standing(
        step=done,
        place=("boundary",) if step is None else step.place,
        newest_step=newest_step,
        can_be_saved=is_whole and done != newest_step,
    )
