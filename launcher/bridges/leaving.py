"""How the ranks under a framework's loop end for a preemption notice, saved or not."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from .rank_notices import RankNotices
from .records import BridgeRecords


def leave_for_notice(
    rank: RankNotices,
    records: BridgeRecords,
    *,
    step: int,
    newest: int | None,
    failure: str | None,
    folder: Path,
) -> NoReturn:
    """End this rank: with 75, or with 1 where nothing can be resumed. Called on every rank.

    Args:
        rank: this one.
        records: of the run.
        step: optimizer steps that are done.
        newest: step of the newest complete checkpoint, the same on every rank; None: there is none.
        failure: why the present step could not be saved, the same on every rank; None: it is saved.
        folder: where the checkpoints are.
    """
    sentence = leaving_text(
        rank.flag.cause, step=step, newest=newest, failure=failure, folder=folder
    )
    records.ended(step, "preempted", "preemption notice", newest)
    rank.agreement().meet()
    if newest is None:
        rank.leave_with_nothing(sentence)
    (rank.console.say if failure is None else rank.console.warn)(sentence)
    rank.leave()


def leaving_text(
    cause: str | None, *, step: int, newest: int | None, failure: str | None, folder: Path
) -> str:
    """Return what is reported of the end; pure. The arguments are those of `leave_for_notice`."""
    notice = f"preemption notice ({cause})" if cause else "preemption notice"
    if failure is None:
        return f"{notice}: saved step {step}. The same command resumes the run."
    if newest is not None:
        return (
            f"{notice}: step {step} could not be saved ({failure}). The same command resumes from "
            f"step {newest}."
        )
    return (
        f"{notice} at step {step}, and no checkpoint could be written ({failure}): its {step} "
        f"steps are lost. The same command starts from step 0, once {folder} can be written."
    )
