"""Whether a run that lost a machine can be continued, and the message about it."""

from pathlib import Path

from ...contract.exit_codes import CONTINUE, DO_NOT_RETRY, USAGE
from ...rendezvous.node_texts import lost_text

LOST_CODE = 1
_STANDING = frozenset({USAGE, CONTINUE, DO_NOT_RETRY})
"""Codes with which the ranks of this node have said themselves what comes next."""


def has_checkpoint(folder: Path | None, checkpoints: str | None = None) -> bool:
    """Return whether there is a checkpoint to resume from, as far as the launcher can know.

    Args:
        folder: The run's; None: not known.
        checkpoints: Where they were asked to go; None: where the run has said in its folder.
    """
    return newest_step(folder, checkpoints) is not None


def newest_step(folder: Path | None, checkpoints: str | None = None) -> int | None:
    """Return the step of the newest checkpoint; None: there is none, as far as is known here.

    Args:
        folder: The run's; None: not known.
        checkpoints: Where they were asked to go; None: where the run has said in its folder.
    """
    if checkpoints is not None:
        return _newest_step(checkpoints)
    if folder is None:
        return None
    from ...run_folder.folder import checkpoints_elsewhere

    return _newest_step(checkpoints_elsewhere(folder) or str(folder))


def _newest_step(place: str) -> int | None:
    # Every start would wait for what only the loss of a machine or of work needs.
    from checkpointing import CheckpointStore, place_at

    at = place_at(place)
    try:
        return next(iter(CheckpointStore(at.folder / "checkpoints", at.files).steps()), None)
    except OSError:
        return None


def code_after_loss(code: int, *, continues: bool) -> int:
    """Return the exit code of a run that a lost node ends; pure.

    Args:
        code: That of the ranks here, which fell with the node unless they said otherwise.
        continues: There is a checkpoint.
    """
    if code in _STANDING:
        return code
    return CONTINUE if continues else LOST_CODE


def without_leader_text(node: int, host: str | None, *, continues: bool) -> str:
    """Return why the run ends where the leading node is lost, and what the person can do; pure.

    Args:
        node: The one that led.
        host: Its machine, where that is known.
        continues: There is a checkpoint.
    """
    return (
        f"{lost_text(node, host)} The nodes meet there, so the run ends. Start the same command "
        f"again; {_then(continues=continues)} If node 0 does not return, make another node "
        "node 0: --node-rank 0 there, and its address as --master-addr everywhere."
    )


def after_loss_text(why: str, *, continues: bool) -> str:
    """Return why the run ends here, and what the person can do; pure."""
    return f"{why} Start the same command again on all nodes; {_then(continues=continues)}"


def _then(*, continues: bool) -> str:
    return (
        "it resumes from the newest checkpoint." if continues else "there is no checkpoint so far."
    )
