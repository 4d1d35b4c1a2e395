"""The end of a loop that all ranks have agreed on: of a run's loop and of the user's own."""

from __future__ import annotations

from strategies import Decision, StrategyError
from strategies.collectives.process_group import HostCommunicator


def reason_of_script(communicator: HostCommunicator, asked: str | None) -> str:
    """Return the reasons of the ranks that requested the end. Called on every rank.

    Args:
        communicator: the host's group.
        asked: what this rank said; None: it did not ask.
    """
    given = communicator.all_gather(asked)
    reasons = dict.fromkeys(str(reason) for reason in given if reason is not None)
    return f"the script asked: {'; '.join(reasons)}"


def require_checkpoint(
    decision: Decision, step: int, newest_step: int | None, checkpoints: object
) -> None:
    """Refuse to call a run resumable that has no checkpoint.

    Args:
        decision: that the ranks leave.
        step: optimizer steps completed.
        newest_step: of the newest checkpoint; None: there is none.
        checkpoints: where they would be.

    Raises:
        StrategyError: there is none.
    """
    if newest_step is None:
        raise StrategyError(
            f"{decision.reason} at step {step}, and no checkpoint could be written: its {step} "
            "steps are lost. The same command starts from step 0, once there is room at "
            f"{checkpoints}."
        )
