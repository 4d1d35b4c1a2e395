"""Which step comes next, with the strategy prepared for it."""

from __future__ import annotations

from strategies import (
    BatchPlan,
    LossScale,
    StepOutcome,
    put_in_force,
    seed_streams,
    stream_seed,
)
from strategies.data.seeding import BEFORE_FIRST_MICRO_BATCH

from ...context import RunContext
from ...run_state import RunState
from ..job_parts import JobParts
from .step import Step
from .step_support import StepSupport


class StepMaker:
    """Makes one `Step` after the other. Every method is called on every rank."""

    def __init__(self, run: RunContext, parts: JobParts, support: StepSupport) -> None:
        self._run = run
        self._parts = parts
        self._strategy = parts.strategy
        self._support = support

    def next_step(self, state: RunState, plan: BatchPlan) -> Step:
        """Put the rates and frozen parameters of the next step in force, and return it."""
        number, parts = state.step, self._parts
        rates = parts.rates.at(number, state.plateau.factor)
        put_in_force(self._strategy.param_groups, rates)
        self._strategy.hold_back(parts.unfreezing.held_at(number))
        done, count = number + 1, len(plan.micro_batches(number))
        self._strategy.begin_exact_step(state.exponents, count)
        self._run.lockstep.step = number
        if self._support.trial is not None:
            self._support.trial.before_step(number)
        # What the script draws now is not to depend on what this process has done before.
        seed_streams(stream_seed(self._run.seed, number, BEFORE_FIRST_MICRO_BATCH))
        return Step(
            number=number,
            seed=self._run.seed,
            loss_scale=state.scale.scale,
            evaluation_due=parts.evaluate_every.is_due(done) or done == plan.total_steps,
            num_micro_batches=count,
            turns=plan.turns(number, self._run.ranks.rank, self._run.ranks.world_size),
            owner=self._support,
        )

    def only_evaluation(self, state: RunState) -> Step:
        """Return the newest step once more, of which only the evaluation is still to be done."""
        step = Step(
            number=state.step - 1,
            seed=self._run.seed,
            loss_scale=1.0,
            evaluation_due=True,
            num_micro_batches=0,
            turns=(),
            owner=self._support,
        )
        step.outcome = StepOutcome(grad_norm=float("nan"), applied=True)
        self._run.say(f"repeating the evaluation after step {state.step}, which was interrupted")
        return step


def first_scale(run: RunContext, state: RunState, counted: float) -> LossScale:
    """Return the loss scale of a run's first step. Called on every rank.

    Args:
        run: the start.
        state: of the run.
        counted: by this rank in its first micro-batch.
    """
    scale, ranks = state.scale, run.ranks
    if not scale.dynamic or scale != LossScale.for_precision(run.precision):
        return scale
    (total,) = ranks.channel.start([counted]).wait()
    return scale.for_sums(total / ranks.world_size)
