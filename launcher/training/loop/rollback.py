"""Going back to a checkpoint after steps that could not be applied, or an evaluation that is not
finite, and around their data.

The procedure is that of Chowdhery et al., "PaLM" (2022), section 5.1: restart before the trouble
and leave out the data that was seen since. All but `roll_back` are pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from strategies import BatchPlan, Jump, Restored, StrategyError

from ..run_state import RunState
from ..saving.checkpointer import Checkpointer
from .evaluation_rules import EvaluationRules

MAX_ROLLBACKS = 10
"""In one run; more means that the data is not what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why a run goes back."""

    sentence: str
    began: int | None
    """The newest step at which all was well; None: it never was."""
    advice: str


def skipped_steps(state: RunState) -> Trouble:
    """Return the trouble of a run whose gradients are not finite.

    Steps that are not applied change nothing, so a checkpoint from among them is no way out.
    """
    return Trouble(
        sentence=f"the gradients were not finite in {state.skipped_in_a_row} steps in a row, the "
        f"last one step {state.step - 1}.",
        began=state.step - state.skipped_in_a_row,
        advice="Lower the learning rate, clip with max_grad_norm, or check the data.",
    )


def bad_evaluation(state: RunState) -> Trouble:
    """Return the trouble of a run whose monitored metric is not finite.

    What was saved since the last finite value may be what the next evaluation finds broken.
    """
    stopper = state.stopper
    return Trouble(
        sentence=f"{stopper.monitor} is {stopper.last} at step {state.step}.",
        began=stopper.finite_step,
        advice="Lower the learning rate, clip with max_grad_norm, or check the data and the "
        "metric.",
    )


def trouble_of(state: RunState, rules: EvaluationRules) -> Trouble:
    """Return why the run must roll back now."""
    return bad_evaluation(state) if rules.asks_to_go_back(state) else skipped_steps(state)


def newest_to_go_back_to(state: RunState, trouble: Trouble) -> int:
    """Return the newest step whose checkpoint may help.

    Where the run has gone back to the very step at which the trouble began again, it must be an
    older one.

    Raises:
        StrategyError: the run has gone back too often, or was never well.
    """
    if len(state.jumps) >= MAX_ROLLBACKS:
        raise StrategyError(
            f"{trouble.sentence} The run has rolled back {len(state.jumps)} times already. "
            f"{trouble.advice}"
        )
    if trouble.began is None:
        raise StrategyError(
            f"{trouble.sentence} No earlier evaluation was finite, so no checkpoint is known to be "
            f"good. {trouble.advice}"
        )
    is_tried = any(jump.at == trouble.began for jump in state.jumps)
    return trouble.began - 1 if is_tried else trouble.began


def roll_back(
    state: RunState, checkpointer: Checkpointer, plan: BatchPlan, trouble: Trouble, *, where: object
) -> RunState:
    """Load an earlier checkpoint; return the state to continue from. Called on every rank.

    Raises:
        StrategyError: there is none that may help, or it has been done too often.
    """
    newest = newest_to_go_back_to(state, trouble)
    restored = checkpointer.restore(newest=newest)
    if restored is None:
        raise StrategyError(
            f"{trouble.sentence} There is no checkpoint of step {newest} or before to roll back "
            f"to. Save more often. {trouble.advice}"
        )
    checkpointer.forget_after(restored.step)
    return gone_back(state, restored, plan, where=where)


def gone_back(state: RunState, restored: Restored, plan: BatchPlan, *, where: object) -> RunState:
    """Return the state after a rollback: the checkpoint's, with the data since then skipped.

    Args:
        state: as it is when the run goes back.
        restored: the checkpoint.
        plan: the one in force, with the jumps of `state`.
        where: the run folder, for messages.
    """
    kept = tuple(jump for jump in state.jumps if jump.at <= restored.step)
    length = plan.data_step(state.step) - replace(plan, jumps=kept).data_step(restored.step)
    jumps = (*kept, Jump(at=restored.step, length=length))
    return replace(state.restored(restored.state, plan, where=where), jumps=jumps)
