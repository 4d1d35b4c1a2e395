"""Going back to a checkpoint after steps that could not be applied, and around their data.

The procedure is that of Chowdhery et al., "PaLM" (2022), section 5.1: restart before the trouble
and leave out the data that was seen since. All but `roll_back` are pure functions.
"""

from __future__ import annotations

from dataclasses import replace

from strategies import BatchPlan, Jump, Restored, StrategyError

from .keeper import Keeper
from .run_state import RunState

MAX_ROLLBACKS = 10
"""In one run; more means that the data is not what is wrong."""


def newest_to_go_back_to(state: RunState) -> int:
    """Return the newest step whose checkpoint may help.

    Steps that are not applied change nothing, so one from among them is no way out. Where the run
    has gone back to the very step at which the trouble began again, it must be an older one.

    Raises:
        StrategyError: the run has gone back too often.
    """
    if len(state.jumps) >= MAX_ROLLBACKS:
        raise StrategyError(
            f"{_trouble(state)} The run has gone back {len(state.jumps)} times already. "
            "Lower the learning rate, clip with max_grad_norm, or look at the data."
        )
    began = state.step - state.skipped_in_a_row
    is_tried = any(jump.at == began for jump in state.jumps)
    return began - 1 if is_tried else began


def roll_back(state: RunState, keeper: Keeper, plan: BatchPlan, *, where: object) -> RunState:
    """Load an earlier checkpoint; return the state to go on from. Called on every rank.

    Raises:
        StrategyError: there is none that may help, or it has been done too often.
    """
    newest = newest_to_go_back_to(state)
    restored = keeper.restore(newest=newest)
    if restored is None:
        raise StrategyError(
            f"{_trouble(state)} There is no checkpoint of step {newest} or before to go back to. "
            "Lower the learning rate, clip with max_grad_norm, save more often, or look at the "
            "data."
        )
    keeper.forget_after(restored.step)
    return gone_back(state, restored, plan, where=where)


def gone_back(state: RunState, restored: Restored, plan: BatchPlan, *, where: object) -> RunState:
    """Return the state after going back: the checkpoint's, with the data since then left out.

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


def _trouble(state: RunState) -> str:
    return (
        f"the gradients were not finite in {state.skipped_in_a_row} steps in a row, the last one "
        f"step {state.step - 1}."
    )
