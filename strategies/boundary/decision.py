"""What to do at a boundary: one pure function of agreed numbers, the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from .boundary import Agreed
from .notice_rounds import AgreedNotice


class Ending(StrEnum):
    """Why a run leaves its loop."""

    PREEMPTED = "preempted"
    STOPPED = "stopped"
    EARLY_STOPPED = "early stop"
    COMPLETED = "completed"

    @property
    def is_final(self) -> bool:
        """Whether the run is finished, so that the same command must not train on."""
        return self is not Ending.PREEMPTED


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the run is; every field is the same on every rank."""

    step: int
    """Optimizer steps completed."""
    total_steps: int
    save_due: bool
    """The step is one at which a save was asked for."""
    early_stop_reason: str | None
    """Set once the early-stopping rule has fired."""
    stopped_because: str | None = None
    """Set in a run that the script has stopped."""
    saving_since: int | None = None
    """The step at which the present part of the save in flight began; None: none is in flight."""
    world_size: int = 1
    newest_step: int | None = None
    """The step of the newest checkpoint on disk, or in flight; None: there is none."""
    owes_evaluation: bool = False
    """The evaluation after this step was broken off, or not begun."""
    is_saved: bool = False
    """The newest checkpoint holds just this state."""
    is_stuck: bool = False
    """Too many steps in a row could not be applied, or what was measured is not finite."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What every rank does now."""

    save: bool
    conclude: bool = False
    """Finish the save in flight first, however long it takes: another is to begin, or the end."""
    proceed: bool = False
    """All ranks have done the present part of the save in flight: begin the next one."""
    rollback: bool = False
    """Go back to an earlier checkpoint."""
    ending: Ending | None = None
    reason: str = ""


def decide(
    progress: Progress, agreed: Agreed | None, notice: AgreedNotice | None = None
) -> Decision:
    """Return what to do after a step, from numbers that came out of a collective.

    Args:
        progress: where the run is.
        agreed: what the ranks said at the former boundary; None at the first.
        notice: what they knew of a preemption notice and of the time in the step; None: nothing
            was asked.

    Leaving saves, unless the ranks would be killed in the middle of it. A request to leave
    outranks every other ending: the machines are about to go, and the checkpoint lets the next
    attempt find the other endings again.
    """
    decision = _ending_or_save(progress, agreed, notice)
    if progress.saving_since is None:
        return decision
    if decision.save or decision.rollback or decision.ending is not None:
        return replace(decision, conclude=True)
    # What was reported at or before the step at which the part began is about the one before.
    is_about_it = agreed is not None and agreed.step > progress.saving_since
    is_settled = is_about_it and agreed is not None and agreed.settled == progress.world_size
    return replace(decision, proceed=is_settled)


def _ending_or_save(
    progress: Progress, agreed: Agreed | None, notice: AgreedNotice | None
) -> Decision:
    if (notice is not None and notice.asked) or (agreed is not None and agreed.preempt):
        return _leave("preemption notice", progress, notice)
    if progress.owes_evaluation:
        # It did not fit before the end of the time, or it would be under way.
        return _leave("the time limit comes before the end of the evaluation", progress, notice)
    time = None if notice is None else notice.time
    if time is not None and time.is_running_out and progress.step < progress.total_steps:
        return _leave(f"the time limit comes in {time.left_s:.0f} s", progress, notice)
    if progress.stopped_because is not None or (agreed is not None and agreed.stop):
        reason = progress.stopped_because or "the script called job.stop()"
        return Decision(save=True, ending=Ending.STOPPED, reason=reason)
    if progress.is_stuck:
        return Decision(save=False, rollback=True)
    if progress.early_stop_reason is not None:
        return Decision(save=True, ending=Ending.EARLY_STOPPED, reason=progress.early_stop_reason)
    if progress.step >= progress.total_steps:
        return Decision(
            save=True,
            ending=Ending.COMPLETED,
            reason=_all_done(progress),
        )
    return Decision(save=progress.save_due or (agreed is not None and agreed.save > 0))


def _all_done(progress: Progress) -> str:
    done, total = progress.step, progress.total_steps
    return f"all {total} steps are done" + (f", and the run is at step {done}" * (done > total))


def _leave(reason: str, progress: Progress, notice: AgreedNotice | None) -> Decision:
    """Return how to leave: with a save if there is time for one, else with the newest one."""
    time = None if notice is None else notice.time
    if progress.owes_evaluation and notice is not None and notice.asked:
        reason = f"{reason} in an evaluation, which will be repeated"
    if progress.is_saved:
        return Decision(save=False, ending=Ending.PREEMPTED, reason=reason)
    if time is None or time.fits_a_save or progress.newest_step is None:
        return Decision(save=True, ending=Ending.PREEMPTED, reason=reason)
    return Decision(
        save=False,
        ending=Ending.PREEMPTED,
        reason=f"{reason}; {time.left_s:.0f} s are too short for a save, which takes "
        f"{time.save_s:.1f} s: the steps since step {progress.newest_step} are lost",
    )
