"""Whether a run that lost a machine can be continued, and what is said about it."""

from pathlib import Path

from checkpointing import CheckpointStore, place_at

from .exit_codes import CONTINUE, DO_NOT_RETRY, USAGE
from .plan import LaunchPlan
from .program import ProgramKind

LOST_CODE = 1
_STANDING = frozenset({USAGE, CONTINUE, DO_NOT_RETRY})
"""Codes with which the ranks of this node have said themselves what comes next."""


def has_checkpoint(plan: LaunchPlan) -> bool:
    """Return whether there is a checkpoint to go on from, as far as the launcher can know.

    A script may name another folder to `Run.start`; then --run-dir has to say so here.
    """
    if plan.checkpoints is not None:
        return _has_steps(plan.checkpoints)
    folder = plan.run_dir
    if folder is None and plan.uses_run and plan.program.kind is ProgramKind.SCRIPT:
        folder = Path("runs") / Path(plan.program.name).stem
    if folder is None:
        return False
    return _has_steps(str(folder))


def _has_steps(place: str) -> bool:
    at = place_at(place)
    try:
        return bool(CheckpointStore(at.folder / "checkpoints", at.files).steps())
    except OSError:
        return False


def code_after_loss(code: int, *, continues: bool) -> int:
    """Return the exit code of a run that a lost node ends; pure.

    Args:
        code: That of the ranks here, which fell with the node unless they said otherwise.
        continues: There is a checkpoint.
    """
    if code in _STANDING:
        return code
    return CONTINUE if continues else LOST_CODE


def after_loss_text(why: str, *, continues: bool) -> str:
    """Return why the run ends here, and what the person can do; pure."""
    then = (
        "it goes on from the newest checkpoint." if continues else "there is no checkpoint so far."
    )
    return f"{why} Start the same command again on all nodes; {then}"
