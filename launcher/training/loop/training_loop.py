"""The training loop's engine: steps, boundaries, evaluations, endings."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import NoReturn

from checkpointing import JSON
from strategies import (
    Agreed,
    BatchPlan,
    ConfigError,
    Decision,
    Ending,
    LossScale,
    MapDataset,
    Metrics,
    Progress,
    Report,
    decide,
)
from strategies.collectives.late_number import LateNumber
from strategies.collectives.replicas import refuse_different
from strategies.data.reading.samples import Collate

from ...contract.exit_codes import CONTINUE
from ...contract.files.leaving import tell_leaving
from ..context import RunContext
from ..ending.agreed_end import reason_of_script
from ..ending.mistakes import Standing
from ..exact import inexact_text
from ..recipe.measure import Measure
from ..recipe.recipe import Recipe
from ..run_state import RunState
from .job_parts import JobParts
from .leaving import report_end, standing
from .resume import resume
from .rollback import roll_back, trouble_of
from .steps.next_step import StepMaker, first_scale
from .steps.own_updates import OwnUpdates
from .steps.step import Step
from .steps.step_support import StepSupport
from .weight_digests import WeightDigests

_LONGEST_WAIT_S = 25.0
"""A rank that has met a mistake alone is not to keep the others for longer."""


class TrainingLoop:
    """Carries a run from step to step. Every method that is not a property is for all ranks."""

    def __init__(self, run: RunContext, recipe: Recipe, parts: JobParts) -> None:
        """Continue from the newest checkpoint. Called on every rank."""
        self._run = run
        self._recipe = recipe
        self._parts = parts
        self._state = RunState(scale=LossScale.for_precision(run.precision), init=recipe.init)
        self._strategy = parts.strategy
        self._replicas = parts.strategy.replicas()
        self._boundary = parts.boundary
        self._checkpointer = parts.checkpointer
        self._saver = parts.saver
        self._log = parts.log
        self._digests = WeightDigests(run, parts.strategy, parts.log.records, recipe.digest_every)
        self._rules = parts.rules
        self.asked_to_stop: str | None = None
        """What the script said when it called `job.stop()` on this rank."""
        self._step_s = 0.0
        self._open: Step | None = None
        """The step that the script has, from when it is yielded until its boundary."""
        self._support = support = StepSupport(
            run,
            recipe,
            parts,
            evaluate=self._evaluate_after,
            give_up=self._give_up,
            first_loss_scale=self._first_loss_scale,
        )
        self.measure = support.measure
        """Evaluates on a data set, unless the ranks are to leave."""
        self._steps = StepMaker(run, parts, support)
        run.before_first_step.leave_if_asked()
        self._state = resume(run, recipe, parts, self._state)
        self._plan = replace(parts.plan, jumps=self._state.jumps)
        self._own_updates = OwnUpdates(parts.strategy, lambda: self._open)
        run.before_first_step.leave_if_asked()

    @property
    def state(self) -> RunState:
        """Where the run is."""
        return self._state

    @property
    def step(self) -> int:
        """Optimizer steps completed."""
        return self._state.step

    @property
    def plan(self) -> BatchPlan:
        """Which data each step has, around what the run has left out."""
        return self._plan

    @property
    def longest_wait_s(self) -> float:
        """How much later another rank may come to what all ranks do in a step."""
        return min(_LONGEST_WAIT_S, 2.0 * self._step_s)

    def ending(self) -> Decision | None:
        """Return how the run has ended already, at an earlier start; None: it has not."""
        if self._state.owed_evaluation is not None:
            return None
        decision = decide(self._state.progress(self.plan), None)
        return None if decision.ending is None else decision

    def iterate(self) -> Generator[Step]:
        """Yield one step after the other until the run ends.

        Raises:
            Preempted: after a save, when any rank was asked to leave.
        """
        self._run.heartbeat.beat()  # the first step, which may compile, has the whole time
        self._parts.attributes.begin(self._state.set_by_loop)
        self._run.lockstep.loop = "the training loop"
        try:
            decision = yield from self._all_steps()
        except GeneratorExit:
            self._support.left(f"the training loop in step {self.step}")
            self._support.close()
            raise
        except ConfigError:
            raise  # what is finished is saved before the writer is closed: `save_finished`
        except BaseException:
            self.close()
            raise
        finally:
            self._run.lockstep.loop = None
        self.close()
        report_end(self._run, self._parts, decision, self._state)

    def _all_steps(self) -> Generator[Step, None, Decision]:
        """Yield the steps, one owed evaluation first; return why there are no more."""
        self._own_updates.require_as_begun()
        if self._state.owed_evaluation is not None:
            self._open = step = self._steps.only_evaluation(self._state)
            yield step
            decision = self._finish_evaluation(step)
            if decision.ending is not None:
                return decision
        self._support.read_from(self.step, self.plan)
        while True:
            self._open = step = self._steps.next_step(self._state, self.plan)
            yield step
            step.require_complete()
            decision = self._finish(step)
            if decision.ending is not None:
                return decision
            if decision.rollback:
                self._support.read_from(self.step, self.plan)

    def close(self) -> None:
        """End the processes that read and write for this rank; no collective."""
        self._support.close()
        self._checkpointer.close()

    def standing(self) -> Standing:
        """Return where this rank is, with what of the run is not on the disk."""
        return standing(self._open, self._state, self._checkpointer.newest_step)

    def save_finished(self) -> None:
        """Save the steps that are finished, and close. Called on every rank, at one `standing`."""
        self._support.is_leaving = True
        step, owes = self._open, False
        if step is not None and step.is_under_way:
            self._support.statistics.give_up()
        elif step is not None and step.outcome is not None and self._state.owed_evaluation is None:
            owes = step.evaluation_due
            step.metrics.clear()  # all of this step's are measured again
            self._come_to_boundary(step, owes_evaluation=owes)
        self._prepare_to_save(owes_evaluation=owes)
        if self._checkpointer.saving_since is not None:
            self._state = self._saver.conclude(self._state)
        if self._checkpointer.newest_step != self.step:
            self._saver.save(self.step, self._state_to_json(None), Ending.PREEMPTED)

    def _finish(self, step: Step, *, owes_evaluation: bool = False) -> Decision:
        """Close a step at its boundary; return what was decided."""
        agreed = self._come_to_boundary(step, owes_evaluation=owes_evaluation)
        self._end_trial()
        decision = decide(self._progress(owes_evaluation=owes_evaluation), agreed, step.notice)
        if decision.ending is Ending.STOPPED:
            reason = reason_of_script(self._run.communicator, self.asked_to_stop)
            decision = replace(decision, reason=reason)
            self._state = replace(self._state, stopped_because=decision.reason)
        self._carry_out(decision, owes_evaluation=owes_evaluation)
        return decision

    def _end_trial(self) -> None:
        """Stop after the last step of a trial; the same on every rank."""
        trial = self._support.trial
        if trial is not None and trial.is_over(self.step):
            self.asked_to_stop = f"the trial of {self.step} steps is over"
            self._state = replace(self._state, stopped_because=self.asked_to_stop)

    def _come_to_boundary(self, step: Step, *, owes_evaluation: bool) -> Agreed | None:
        """Count and report a step; return what the ranks reported at the previous boundary."""
        assert step.outcome is not None
        if step.evaluation_due and not owes_evaluation:
            self._rules.require_measured(step.metrics, step.number + 1)
        self._open, self._step_s = None, step.seconds
        self._state = self._state.after(step.outcome)
        if step.outcome.inexact:
            self._log.noted(inexact_text(step.number, step.outcome.inexact))
        if step.outcome.is_empty:
            self._log.empty_step(step.number, self._state.empty_steps)
        if step.evaluation_due and self._rules.has_rules and not owes_evaluation:
            self._judge_evaluation(step)
        # What the ranks said at the former boundary; what they say now is read at the next.
        agreed = self._boundary.receive()
        if agreed is not None and agreed.replicas_differ:
            refuse_different(self._replicas, self._run.communicator, step=self.step)
        self._boundary.hold(self._report(step))
        self._run.heartbeat.beat(self.step)
        self._saver.passed(step.evaluation_s, step.num_turns)
        self._log.records.step(
            self.step,
            self.plan,
            step,
            float(self._strategy.param_groups[0]["lr"]),
            agreed,
            self._saver.pace.since_last_s,
            must=owes_evaluation,
        )
        is_evaluated = step.evaluation_due and not owes_evaluation
        self._digests.after_step(self.step, is_evaluated=is_evaluated)
        return agreed

    def _finish_evaluation(self, step: Step) -> Decision:
        """Close an evaluation that was owed; return what was decided."""
        self._rules.require_measured(step.metrics, step.number + 1)
        record, self._open = self._state.owed_evaluation, None
        self._state = replace(self._state, owed_evaluation=None)
        self._log.records.evaluated(record or {}, step)
        if self._rules.has_rules:
            self._judge_evaluation(step)
        decision = decide(self._progress(), None, step.notice)
        self._carry_out(decision)
        return decision

    def _progress(self, *, owes_evaluation: bool = False, is_saved: bool = False) -> Progress:
        return self._state.progress(
            self.plan,
            save_due=self._saver.pace.is_due_after(self.step),
            saving_since=self._checkpointer.saving_since,
            world_size=self._run.ranks.world_size,
            newest_step=self._checkpointer.newest_step,
            max_skipped=self._recipe.max_skipped,
            goes_back=self._rules.asks_to_go_back(self._state),
            owes_evaluation=owes_evaluation,
            is_saved=is_saved,
        )

    def _carry_out(self, decision: Decision, *, owes_evaluation: bool = False) -> None:
        """Do what was decided. Called on every rank."""
        if decision.save:
            self._digests.add(self.step)
        if decision.save or decision.conclude or decision.proceed or decision.rollback:
            self._prepare_to_save(owes_evaluation=owes_evaluation)
        if decision.conclude:
            self._state = self._saver.conclude(self._state)
        if decision.proceed:
            self._state = self._saver.proceed(self._state)
        if decision.save:
            self._saver.save(self.step, self._state_to_json(decision.ending), decision.ending)
        if decision.rollback:
            self._roll_back()
        if decision.ending is Ending.PREEMPTED and self._checkpointer.newest_step is not None:
            # What is left to do here takes its time, and must not look like a failure.
            tell_leaving(self._run.environment.leaving_file, CONTINUE)

    def _prepare_to_save(self, *, owes_evaluation: bool) -> None:
        """Let nothing be under way between the ranks, and every record be written."""
        self._boundary.drain()
        # Before the save: a resume from it must find the step's record.
        agreed = self._boundary.peek()
        if owes_evaluation:
            # One record for a step: it is written with what is measured after the resume.
            record = self._log.records.complete(agreed)
            self._state = replace(self._state, owed_evaluation=record)
        else:
            self._log.records.flush(agreed)

    def _give_up(self, step: Step) -> NoReturn:
        """Leave in the middle of a step: what is saved is the one before. Called on every rank."""
        self._support.is_leaving = True
        self._run.say(f"step {step.number} is dropped and will be repeated after the resume")
        self._prepare_to_save(owes_evaluation=False)
        if self._checkpointer.saving_since is not None:
            self._state = self._saver.conclude(self._state)
        is_saved = self._checkpointer.newest_step == self.step
        decision = decide(self._progress(is_saved=is_saved), None, step.notice)
        self._carry_out(decision)
        self._leave(decision)

    def _leave(self, decision: Decision) -> NoReturn:
        """Leave from where the script is in the loop's body. Called on every rank.

        Raises:
            Preempted: always.
        """
        self._run.lockstep.loop = None
        self.close()
        report_end(self._run, self._parts, decision, self._state)
        raise AssertionError("only a preempted run leaves in the middle")

    def _roll_back(self) -> None:
        """Go back to an earlier checkpoint. Called on every rank.

        Raises:
            StrategyError: there is none, or it has been done too often.
        """
        before, trouble = self.step, trouble_of(self._state, self._rules)
        path = self._run.folder.path
        state = roll_back(self._state, self._checkpointer, self.plan, trouble, where=path)
        self._state, _ = self._rules.resumed(state)
        self._plan = replace(self._plan, jumps=self._state.jumps)
        self._boundary.receive()
        self._log.rolled_back(before, self.step, self.plan, trouble.sentence)
        for phrase in self._parts.attributes.go_back(self._state.set_by_loop):
            self._run.say(f"{phrase}, as at step {self.step}")

    def _first_loss_scale(self, counted: float) -> float:
        """See StepOwner."""
        self._state = replace(self._state, scale=first_scale(self._run, self._state, counted))
        return self._state.scale.scale

    def _report(self, step: Step) -> Report:
        assert step.outcome is not None
        return Report(
            step=self.step,
            stop=self.asked_to_stop is not None,
            save=self._run.ranks.is_coordinator and self._saver.pace.is_due_now(),
            skipped=not (step.outcome.applied or step.outcome.is_empty),
            settled=self._checkpointer.is_settled(),
            loss_sum=LateNumber(step.loss_sum),
            loss_count=step.loss_count,
            replicas=self._replicas.digest_after(self.step),
        )

    def _judge_evaluation(self, step: Step) -> None:
        self._state = self._saver.conclude_best(self._state)
        former = self._state.stopper
        self._state, is_best, cut = self._rules.after(self._state, step.metrics)
        if cut is not None:
            self._log.rate_cut(self.step, cut)
        if is_best:
            name = str(self._state.stopper.monitor)
            self._state = self._saver.start_best(
                self._state,
                self._state_to_json(None),
                former=former,
                name=name,
                value=step.metrics[name],
            )

    def _evaluate_after(
        self, step: Step, dataset: MapDataset, measure: Measure, name: str, collate: Collate | None
    ) -> Metrics:
        """Evaluate after a step, or leave with that step saved and the evaluation owed.

        Raises:
            Preempted: the ranks were asked to leave, or the time is too short.
        """
        found = self._support.measure(dataset, measure, name, collate)
        step.notice = found.notice
        if found.metrics is None:
            self._leave_owing(step)
        return found.metrics

    def _leave_owing(self, step: Step) -> NoReturn:
        self._support.is_leaving = True
        step.metrics.clear()  # all of this step's are measured again
        if self._state.owed_evaluation is None:
            decision = self._finish(step, owes_evaluation=True)
        else:
            is_saved = self._checkpointer.newest_step == self.step
            progress = self._progress(owes_evaluation=True, is_saved=is_saved)
            decision = decide(progress, None, step.notice)
        self._leave(decision)

    def _state_to_json(self, ending: Ending | None) -> dict[str, JSON]:
        state = replace(self._state, set_by_loop=self._parts.attributes.changed())
        return state.to_json(self.plan, ending, schedule=self._parts.rates.text)
