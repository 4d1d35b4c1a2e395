"""The message about an attempt that a preemption notice ended: pure functions to text."""

from collections.abc import Iterable, Mapping, Sequence

from ...contract.exit_codes import CONTINUE, DONE, RankEnd, followers
from ...contract.preemption import signal_name

RESUMES = "The same command resumes the run."


def ranks_text(ranks: Iterable[int]) -> str:
    """Return "rank 3" or "ranks 0, 1, 3"."""
    names = [str(rank) for rank in ranks]
    return f"rank{'s' if len(names) > 1 else ''} {', '.join(names)}"


def nothing_begun_text(outcomes: Sequence[RankEnd]) -> str:
    """Return why a notice cost nothing; empty where no rank left or was ended for it.

    The ranks leave this to the launcher: whichever of them leaves first, it is said once.

    Args:
        outcomes: Of an attempt in which no rank has finished a step; see `exit_codes.spare`.
    """
    before = f"before the first step of this start: there was nothing to save. {RESUMES}"
    died = [o for o in outcomes if o.spared is not None and not o.by_launcher]
    if died:
        names = ", ".join(dict.fromkeys(signal_name(-o.spared) for o in died if o.spared))
        was = "was" if len(died) == 1 else "were"
        return f"{ranks_text(o.rank for o in died)} {was} preempted ({names}) {before}"
    left = [o.rank for o in outcomes if o.status == CONTINUE and o.spared is None]
    if left:
        return f"{ranks_text(left)} exited with {CONTINUE} {before}"
    spared = [o.rank for o in outcomes if o.spared is not None]
    return f"{ranks_text(spared)} had to be ended {before}" if spared else ""


def followers_text(outcomes: Sequence[RankEnd], causes: Mapping[int, str | None]) -> str:
    """Return, in a line, the ranks that failed only because the others had exited; or "".

    Args:
        outcomes: Of an attempt.
        causes: Rank to what it failed with, in a line.
    """
    fell = followers(outcomes)
    if not fell:
        return ""
    cause = next((text for o in fell if (text := causes.get(o.rank))), None)
    how = f" ({cause})" if cause else ""
    return (
        f"{ranks_text(o.rank for o in fell)} ended{how} because the others had saved and exited: "
        "this is not a failure."
    )


def unsaved_text(
    outcomes: Sequence[RankEnd], *, step: int | None, newest: int | None, grace_s: float | None
) -> str:
    """Return why a run that saves by itself could not: who was ended, and what that costs.

    Args:
        outcomes: Of an attempt that a notice ended, and in which nobody has left with 75.
        step: The last step that a rank has finished.
        newest: That of the newest checkpoint; None: there is none, or it is not known.
        grace_s: --grace.
    """
    ended = [o for o in outcomes if o.status not in (DONE, CONTINUE)]
    signals = dict.fromkeys(signal_name(-o.status) for o in ended if o.status and o.status < 0)
    by = f" by {', '.join(signals)}" if signals else ""
    limit = "" if grace_s is None else f" (--grace {grace_s:g})"
    text = f"{ranks_text(o.rank for o in ended)} ended{by} before the run was saved{limit}"
    if step is None:
        return f"{text}. The run resumes from its newest checkpoint."
    if newest is None:
        return (
            f"{text}: step {step} was finished, and no checkpoint is known. Steps since the "
            "newest checkpoint will be repeated."
        )
    lost = max(0, step - newest)
    again = "nothing" if lost == 0 else "1 step" if lost == 1 else f"{lost} steps"
    return (
        f"{text}: step {step} was finished, and the newest checkpoint is of step {newest}: "
        f"{again} will be repeated."
    )
