"""The training loop's engine: steps, boundaries, checkpoints, endings."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from checkpointing import JSON, CheckpointStore
from strategies import (
    BatchPlan,
    Boundary,
    ConfigError,
    Decision,
    Ending,
    LossScale,
    MapDataset,
    Progress,
    Report,
    RunningStatistics,
    StepOutcome,
    Unfreezing,
    current_hyperparameters,
    decide,
    load_weights,
    merge,
    put_in_force,
    samples_of,
    strategy_class,
    training_batches,
)

from .evaluation import Evaluation, Measure, evaluate
from .exit_codes import CONTINUE
from .export import export_model
from .judging import Judge
from .keeper import Keeper
from .progress_log import ProgressLog
from .recipe import Recipe
from .rollback import bad_evaluation, roll_back, skipped_steps
from .run_state import RunState, common_to_ranks, plan_changes
from .saver import Saver
from .step import Step
from .step_support import StepSupport
from .strategy_choice import settle_strategy

if TYPE_CHECKING:
    from .run import Run


class Preempted(SystemExit):
    """Saved, and to be continued by the same command: leaves with exit code 75."""

    def __init__(self) -> None:
        super().__init__(CONTINUE)


class Job:
    """A prepared training run. Iterate over it for its steps; it ends by itself."""

    def __init__(self, run: Run, recipe: Recipe) -> None:
        """Build the strategy and go on from the newest checkpoint. Called on every rank."""
        self.recipe = recipe
        self.run = run
        self._train = samples_of(recipe.train)
        self._plan = recipe.plan(self._train, run.seed)
        self._state = RunState(scale=LossScale.for_precision(run.precision), init=recipe.init)
        self._evaluate_every, save_every = recipe.intervals(self.plan.steps_per_epoch)
        settle_strategy(run, recipe)
        run.before_first_step.go_on()
        self._strategy = strategy_class(run.strategy)(recipe.blueprint(run))
        self._unfreezing = Unfreezing(recipe.unfreeze, self._strategy.catalogue.trainable)
        self._statistics = RunningStatistics(self._strategy.module, run.ranks)
        self._requested = current_hyperparameters(self._strategy.param_groups)
        self._judge = Judge(stop=recipe.stop, plateau=recipe.plateau)
        self._rates = recipe.rates(self._strategy.param_groups, self.plan)
        for note in (*self._statistics.notes, *self._rates.notes):
            run.warn(f"{note}.")
        common = common_to_ranks(self._plan, run, self._rates.text, repr(self._judge))
        self._boundary = Boundary(run.ranks, common)
        self._keeper = Keeper(
            run,
            self._strategy,
            retention=recipe.retention(self.plan.steps_per_epoch),
            requested=self._requested,
            objects=recipe.objects,
        )
        self._asked_to_stop: str | None = None
        self._log = ProgressLog(run, recipe, self.plan, save_every)
        self._saver = Saver(run, self._keeper, self._log, save_every)
        self._support = StepSupport(
            run,
            self._strategy,
            self._statistics,
            self._boundary,
            self._saver,
            evaluate=self._evaluate_after,
            give_up=self._give_up,
        )
        run.before_first_step.go_on()
        self._resume()
        run.before_first_step.go_on()

    @property
    def step(self) -> int:
        """Optimizer steps completed."""
        return self._state.step

    @property
    def plan(self) -> BatchPlan:
        """Which data each step has, around what the run has left out."""
        return self._plan

    @property
    def model(self) -> Any:
        """What the loop calls; wrapped or sharded by the strategy."""
        return self._strategy.module

    @property
    def epoch(self) -> int:
        """0-based epoch of the next step."""
        return self.plan.epoch_of(self.step)

    def __iter__(self) -> Iterator[Step]:
        """Yield one `Step` after the other until the run is done, stopped or asked to leave.

        Raises:
            Preempted: after a save, when any rank was asked to leave; it ends the process with 75.
        """
        itinerary = self.run.itinerary
        itinerary.come_to("the training loop")
        if self._state.owed_evaluation is None:
            decision = decide(self._state.progress(self.plan), None)
            if decision.ending is not None:
                self._log.already_over(decision)
                self._hold_what_was_asked_for()
                return
        self.model.train()
        itinerary.loop = "the training loop"
        try:
            decision = yield from self._steps()
        except GeneratorExit:
            self._support.left(f"the training loop in step {self.step}")
            raise
        finally:
            itinerary.loop = None
            self._keeper.close()
        self._end(decision)
        self._hold_what_was_asked_for()

    def _steps(self) -> Generator[Step, None, Decision]:
        """Yield the steps, one owed evaluation first; return why there are no more."""
        if self._state.owed_evaluation is not None:
            step = self._step_to_evaluate()
            yield step
            decision = self._finish_evaluation(step)
            if decision.ending is not None:
                return decision
        self._support.read_from(self._open_batches())
        while True:
            step = self._new_step()
            yield step
            step.require_complete()
            decision = self._finish(step)
            if decision.ending is not None:
                return decision
            if decision.rollback:
                self._support.read_from(self._open_batches())

    def _end(self, decision: Decision) -> None:
        """Tell how the loop ended. Called on every rank.

        Raises:
            Preempted: the ranks are to leave.
        """
        self._log.ended(decision, self.step, self._keeper.newest_step)
        if decision.ending is Ending.PREEMPTED:
            raise Preempted

    def stop(self, reason: str) -> None:
        """Ask for the run to end at the next boundary; one rank is enough."""
        self._asked_to_stop = reason

    def export(self, which: str | None = None) -> None:
        """Write the model as one plain safetensors file. Called on every rank.

        Args:
            which: "best" (by early stopping; the last where there is no such rule), "last", or
                "ema", the average of the last; left out: what `EarlyStopping(restore=...)` says.
        """
        self.run.itinerary.come_to("job.export")
        store, step = self._weights(which)
        is_done = export_model(
            self.run.folder,
            store,
            step,
            self.run.communicator,
            which=which,
            asked=lambda: self.run.preemption.requested,
        )
        if not is_done:
            self._leave_after_loop("job.export")
        name, path = which or self._restore, self.run.folder.export_path
        self.run.say(f"exported the {name} model (step {step}) to {path}")

    def test(
        self,
        dataset: MapDataset,
        measure: Measure,
        *,
        which: str | None = None,
        name: str = "test",
    ) -> dict[str, float]:
        """Measure the best, last or averaged weights on a data set. Called on every rank.

        The model holds those weights afterwards. `which` is as in `export`.
        """
        self.run.itinerary.come_to("job.test")
        self._keeper.restore_weights(*self._weights(which), averaged=which == "ema")
        found = self._evaluate(dataset, measure, name)
        if found.metrics is None:
            self._leave_after_loop("job.test")
        self._log.measured(self.step, which or self._restore, found.metrics)
        return found.metrics

    def _open_batches(self) -> Iterator[Any]:
        return training_batches(
            self._train,
            self.plan,
            first_step=self.step,
            rank=self.run.ranks.rank,
            world_size=self.run.ranks.world_size,
            workers=self.recipe.workers,
            while_waiting=self._support.patience.is_over,
        )

    def _new_step(self) -> Step:
        put_in_force(
            self._strategy.param_groups, self._rates.at(self.step, self._state.plateau.factor)
        )
        self._strategy.hold_back(self._unfreezing.held_at(self.step))
        done = self.step + 1
        self.run.itinerary.step = self.step
        return Step(
            number=self.step,
            seed=self.run.seed,
            loss_scale=self._state.scale.scale,
            evaluation_due=self._evaluate_every.is_due(done) or done == self.plan.total_steps,
            num_micro_batches=len(self.plan.micro_batches(self.step)),
            turns=self.plan.turns(self.step, self.run.ranks.rank, self.run.ranks.world_size),
            owner=self._support,
        )

    def _step_to_evaluate(self) -> Step:
        """Return the newest step once more, of which the evaluation alone is still to be done."""
        step = Step(
            number=self.step - 1,
            seed=self.run.seed,
            loss_scale=1.0,
            evaluation_due=True,
            num_micro_batches=0,
            turns=(),
            owner=self._support,
        )
        step.outcome = StepOutcome(grad_norm=float("nan"), applied=True)
        self.run.say(f"evaluating after step {self.step}, as was to be done when the run left")
        return step

    def _finish(self, step: Step, *, owes_evaluation: bool = False) -> Decision:
        """Close a step at its boundary; return what was decided."""
        assert step.outcome is not None
        self._advance(applied=step.outcome.applied)
        if step.evaluation_due and self._judge.has_rules and not owes_evaluation:
            self._judge_evaluation(step)
        # What the ranks said at the former boundary; what they say now is read at the next.
        agreed = self._boundary.receive()
        self._boundary.hold(self._report(step))
        self.run.heartbeat.beat(self.step)
        self._saver.passed(step)
        self._log.records.step(
            self.step,
            self.plan,
            step,
            self._rate(),
            agreed,
            self._saver.pace.since_last_s,
            must=owes_evaluation,
        )
        decision = decide(self._progress(owes_evaluation=owes_evaluation), agreed, step.notice)
        if decision.ending is Ending.STOPPED:
            decision = replace(decision, reason=self._reason_of_script())
            self._state = replace(self._state, stopped_because=decision.reason)
        self._carry_out(decision, owes_evaluation=owes_evaluation)
        return decision

    def _finish_evaluation(self, step: Step) -> Decision:
        """Close an evaluation that was owed; return what was decided."""
        record, self._state = self._state.owed_evaluation, self._state.without_debt()
        self._log.records.evaluated(record or {}, step)
        if self._judge.has_rules:
            self._judge_evaluation(step)
        decision = decide(self._progress(), None, step.notice)
        self._carry_out(decision)
        return decision

    def _progress(self, *, owes_evaluation: bool = False, is_saved: bool = False) -> Progress:
        return self._state.progress(
            self.plan,
            save_due=self._saver.pace.is_due_after(self.step),
            saving_since=self._keeper.saving_since,
            world_size=self.run.ranks.world_size,
            newest_step=self._keeper.newest_step,
            max_skipped=self.recipe.max_skipped,
            goes_back=self._judge.asks_to_go_back(self._state),
            owes_evaluation=owes_evaluation,
            is_saved=is_saved,
        )

    def _carry_out(self, decision: Decision, *, owes_evaluation: bool = False) -> None:
        """Do what was decided. Called on every rank."""
        if decision.save or decision.conclude or decision.proceed or decision.rollback:
            self._boundary.drain()
            # Before the save: whoever goes on from it must find the step's record.
            agreed = self._boundary.peek()
            if owes_evaluation:
                # One record for a step: it is written with what is measured after the resume.
                record = self._log.records.complete(agreed)
                self._state = replace(self._state, owed_evaluation=record)
            else:
                self._log.records.flush(agreed)
        if decision.conclude:
            self._state = self._saver.conclude(self._state)
        if decision.proceed:
            self._state = self._saver.proceed(self._state)
        if decision.save:
            self._saver.save(self.step, self._state_to_json(decision.ending), decision.ending)
        if decision.rollback:
            self._roll_back()

    def _give_up(self, step: Step) -> NoReturn:
        """Leave in the middle of a step: what is saved is the one before. Called on every rank."""
        self._support.is_leaving = True
        self.run.say(f"step {step.number} is given up, to be done again after the resume")
        self._boundary.drain()
        self._log.records.flush(self._boundary.peek())
        if self._keeper.saving_since is not None:
            self._state = self._saver.conclude(self._state)
        is_saved = self._keeper.newest_step == self.step
        decision = decide(self._progress(is_saved=is_saved), None, step.notice)
        self._carry_out(decision)
        self._leave(decision)

    def _leave(self, decision: Decision) -> NoReturn:
        """Leave from where the script is in the loop's body. Called on every rank.

        Raises:
            Preempted: always.
        """
        self.run.itinerary.loop = None
        self._keeper.close()
        self._end(decision)
        raise AssertionError("only a preempted run leaves in the middle")

    def _leave_after_loop(self, where: str) -> NoReturn:
        """Leave after the training, whose end is saved. Called on every rank.

        Raises:
            Preempted: always.
        """
        self._log.left_after_loop(where, self.step)
        raise Preempted

    def _reason_of_script(self) -> str:
        """Return what the ranks that called `stop` said. Called on every rank."""
        given = self.run.communicator.all_gather(self._asked_to_stop)
        reasons = dict.fromkeys(str(reason) for reason in given if reason is not None)
        return f"the script asked: {'; '.join(reasons)}"

    def _advance(self, *, applied: bool) -> None:
        """Count the step."""
        skipped = 0 if applied else self._state.skipped_in_a_row + 1
        self._state = replace(
            self._state,
            step=self.step + 1,
            scale=self._state.scale.after(finite=applied),
            skipped_in_a_row=skipped,
        )

    def _roll_back(self) -> None:
        """Go back to an earlier checkpoint. Called on every rank.

        Raises:
            StrategyError: there is none, or it has been done too often.
        """
        before, cause = self.step, skipped_steps
        if self._judge.asks_to_go_back(self._state):
            cause = bad_evaluation
        trouble = cause(self._state)
        where = self.run.folder.path
        state = roll_back(self._state, self._keeper, self.plan, trouble, where=where)
        self._state, _ = self._judge.resumed(state)
        self._plan = replace(self._plan, jumps=self._state.jumps)
        self._boundary.receive()
        self._log.rolled_back(before, self.step, self.plan, trouble.sentence)

    def _report(self, step: Step) -> Report:
        assert step.outcome is not None
        return Report(
            step=self.step,
            stop=self._asked_to_stop is not None,
            save=self.run.ranks.is_coordinator and self._saver.pace.is_due_now(),
            skipped=not step.outcome.applied,
            settled=self._keeper.is_settled(),
            loss_sum=float(step.loss_sum),
            loss_count=step.loss_count,
        )

    def _judge_evaluation(self, step: Step) -> None:
        self._state = self._saver.conclude_best(self._state)
        former = self._state.stopper
        self._state, is_best, cut = self._judge.after(self._state, step.metrics)
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
        self, step: Step, dataset: MapDataset, measure: Measure, name: str
    ) -> dict[str, float]:
        """Evaluate after a step, or leave with that step saved and the evaluation owed.

        Raises:
            Preempted: the ranks were asked to leave, or the time is too short.
        """
        found = self._evaluate(dataset, measure, name)
        step.notice = found.notice
        if found.metrics is not None:
            return found.metrics
        self._support.is_leaving = True
        step.metrics.clear()  # all of this step's are measured again
        if self._state.owed_evaluation is None:
            decision = self._finish(step, owes_evaluation=True)
        else:
            is_saved = self._keeper.newest_step == self.step
            progress = self._progress(owes_evaluation=True, is_saved=is_saved)
            decision = decide(progress, None, step.notice)
        self._leave(decision)

    def _evaluate(self, dataset: MapDataset, measure: Measure, name: str) -> Evaluation:
        clock, began_s = self._saver.clock, time.monotonic()
        self._support.patience.begin()
        found = evaluate(
            self._strategy,
            self.run.ranks,
            self._boundary,
            dataset,
            measure,
            micro_batch=self.plan.micro_batch,
            workers=self.recipe.workers,
            name=name,
            beat=self.run.heartbeat.beat,
            look=self._support.look,
            needed_s=clock.evaluation_s(name),
            while_waiting=self._support.patience.is_over,
        )
        if found.metrics is not None:
            clock.evaluated(name, time.monotonic() - began_s)
        return found

    def _rate(self) -> float:
        return float(self._strategy.param_groups[0]["lr"])

    def _state_to_json(self, ending: Ending | None) -> dict[str, JSON]:
        return self._state.to_json(self.plan, ending, schedule=self._rates.text)

    def _resume(self) -> None:
        restored = self._keeper.restore()
        if restored is not None:
            self._state = self._state.restored(
                restored.state, self.plan, where=self.run.folder.path
            )
            self._plan = replace(self._plan, jumps=self._state.jumps)
            changes = plan_changes(restored.state, self.plan, self._rates.text)
            self._state, by_rules = self._judge.resumed(self._state)
            values, by_groups = merge(
                self._strategy.group_names, self._requested, restored.state["optimizer"]["groups"]
            )
            put_in_force(self._strategy.param_groups, values)
            if self.recipe.ema is None:
                self._strategy.forget_average()
            self._log.restored(restored, by_groups + changes + by_rules, self.recipe.objects)
        elif self.recipe.weights is not None:
            load_weights(self._strategy, Path(self.recipe.weights), self.run.communicator)
            self._log.took_weights(self.recipe.weights)
        if self.run.ranks.is_coordinator:
            self._saver.clock.remember(self.run.folder.events())
        self._log.started(self._strategy, self.step, restored)

    @property
    def _restore(self) -> str:
        return "best" if self.recipe.stop is None else self.recipe.stop.restore

    def _hold_what_was_asked_for(self) -> None:
        """Put the weights into the model that a finished run is to leave. Called on every rank."""
        store, step = self._weights(None)
        if step != self.step:
            self._keeper.restore_weights(store, step)
            self.run.say(f"the model holds its best weights, of step {step}")

    def _weights(self, which: str | None) -> tuple[CheckpointStore, int]:
        """Return where the best, the last or the averaged weights are."""
        which = which or self._restore
        if which not in ("best", "last", "ema"):
            raise ConfigError(f'unknown weights "{which}"; choose from best, ema, last.')
        if which == "ema" and self.recipe.ema is None:
            raise ConfigError('"ema" needs an average: pass run.prepare(ema=EMA()).')
        best_step = self._state.stopper.best_step
        if which == "best" and best_step is not None:
            return self.run.folder.best, best_step
        return self.run.folder.checkpoints, self.step
