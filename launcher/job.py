"""The training loop's engine: steps, boundaries, checkpoints, endings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from checkpointing import JSON, SaveFailedError, export_safetensors
from strategies import (
    SEEDING_RULE,
    BatchPlan,
    Blueprint,
    Boundary,
    ConfigError,
    Decision,
    EarlyStoppingState,
    Ending,
    LossScale,
    MapDataset,
    Progress,
    Report,
    Restored,
    StrategyError,
    current_hyperparameters,
    decide,
    merge,
    put_in_force,
    strategy_class,
    training_batches,
)

from .evaluation import Measure, evaluate
from .every import parse_every
from .exit_codes import CONTINUE
from .keeper import Keeper
from .progress_log import ProgressLog
from .recipe import Recipe
from .step import Step

if TYPE_CHECKING:
    from .run import Run

MAX_SKIPPED_IN_A_ROW = 25
"""More than fp16's loss scale needs to come down from its start; beyond, nothing is learned."""


class Preempted(SystemExit):
    """Saved, and to be continued by the same command: leaves with exit code 75."""

    def __init__(self) -> None:
        super().__init__(CONTINUE)


class Job:
    """A prepared training run. Iterate over it for its steps; it ends by itself."""

    def __init__(self, run: Run, recipe: Recipe) -> None:
        """Build the strategy and go on from the newest checkpoint. Called on every rank."""
        self.recipe = recipe
        self.plan = BatchPlan(
            num_samples=len(recipe.train),
            global_batch=recipe.global_batch,
            micro_batch=recipe.micro_batch,
            epochs=recipe.epochs,
            seed=run.seed,
        )
        self.run = run
        self._ranks = run.ranks
        per_epoch = self.plan.steps_per_epoch
        self._evaluate_every = parse_every(
            recipe.evaluate_every, name="evaluate_every", steps_per_epoch=per_epoch
        )
        self._save_every = parse_every(
            recipe.save_every, name="save_every", steps_per_epoch=per_epoch
        )
        if self._evaluate_every.steps is None:
            raise ConfigError(
                f'evaluate_every="{recipe.evaluate_every}" must be in steps or epochs: evaluations '
                "decide when to stop, and clocks differ from run to run."
            )
        self._strategy = strategy_class(run.strategy)(
            Blueprint(
                model=recipe.model,
                optimizer=recipe.optimizer,
                precision=run.precision,
                max_grad_norm=recipe.max_grad_norm,
                seed=run.seed,
                ranks=run.ranks,
            )
        )
        self._requested = current_hyperparameters(self._strategy.param_groups)
        self._base_rates = [float(group["lr"]) for group in self._strategy.param_groups]
        self._boundary = Boundary(run.ranks, self._digest())
        self._keeper = Keeper(
            run.folder,
            run.communicator,
            self._strategy,
            keep=recipe.keep,
            created_by=run.created_by(),
            requested=self._requested,
        )
        self.step = 0
        """Optimizer steps completed."""
        self._stopper = EarlyStoppingState()
        self._scale = LossScale.for_fp16() if run.precision.needs_loss_scaling else LossScale()
        self._stopped_by_script = False
        self._asked_to_stop: str | None = None
        self._skipped_in_a_row = 0
        self._last_save_s = run.clock()
        self._log = ProgressLog(run, every=recipe.log_every, total_steps=self.plan.total_steps)
        self._resume()

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
        ending = self._ending_at_start()
        if ending is not None:
            self._log.already_over(ending)
            return
        batches = training_batches(
            self.recipe.train,
            self.plan,
            first_step=self.step,
            rank=self._ranks.rank,
            world_size=self._ranks.world_size,
            workers=self.recipe.workers,
        )
        self.model.train()
        while ending is None:
            step = self._new_step(batches)
            yield step
            step.require_complete()
            ending = self._finish(step)
        self._log.ended(ending, self.step)
        if ending.ending is Ending.PREEMPTED:
            raise Preempted

    def stop(self, reason: str) -> None:
        """Ask for the run to end at the next boundary; one rank is enough."""
        self._asked_to_stop = reason

    def export(self, which: str = "best") -> None:
        """Write the model as one plain safetensors file. Called on every rank.

        Args:
            which: "best" (by early stopping; the last where there is no such rule) or "last".
        """
        store, step = self._weights(which)
        failure: JSON = None
        if self._ranks.is_coordinator:
            try:
                with store.open(step) as reader:
                    aliases: Any = reader.manifest.state["aliases"]
                    metadata = {"format": "pt", "step": str(step)}
                    metadata |= {f"tied:{name}": kept for name, kept in aliases.items()}
                    path = self.run.folder.export_path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    export_safetensors(reader, path, metadata=metadata)
            except Exception as error:  # every rank must hear of it, whatever it is
                failure = f"the {which} model could not be exported: {error}"
        failure = self.run.communicator.broadcast(failure)
        if failure is not None:
            raise StrategyError(str(failure))
        self.run.say(f"exported the {which} model (step {step}) to {self.run.folder.export_path}")

    def test(
        self, dataset: MapDataset, measure: Measure, *, which: str = "best", name: str = "test"
    ) -> dict[str, float]:
        """Measure the best (or last) weights on a data set. Called on every rank.

        The model holds those weights afterwards.
        """
        self._restore_weights(which)
        found = self._evaluate(dataset, measure, name)
        self._log.measured(found)
        return found

    # ---------------------------------------------------------------- one step

    def _new_step(self, batches: Iterator[Any]) -> Step:
        factor = self.recipe.schedule(self.step, self.plan.total_steps)
        for group, base in zip(self._strategy.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        done = self.step + 1
        return Step(
            number=self.step,
            seed=self.run.seed,
            loss_scale=self._scale.scale,
            evaluation_due=self._evaluate_every.is_due(done) or done == self.plan.total_steps,
            strategy=self._strategy,
            ranks=self._ranks,
            turns=self.plan.turns(self.step, self._ranks.rank, self._ranks.world_size),
            batches=batches,
            evaluate=self._evaluate,
        )

    def _finish(self, step: Step) -> Decision | None:
        """Close a step at its boundary; return the decision to leave, if it is one."""
        assert step.outcome is not None
        self.step += 1
        self._scale = self._scale.after(finite=step.outcome.applied)
        self._count_skipped(applied=step.outcome.applied)
        if step.evaluation_due and self.recipe.stop is not None:
            self._judge(step)
        # What the ranks said at the former boundary; what they say now is read at the next.
        agreed = self._boundary.receive()
        self._boundary.send(self._report(step))
        self.run.heartbeat.beat(self.step)
        self._log.step(self.step, self.plan, step, self._rate(), agreed)
        decision = decide(
            Progress(
                step=self.step,
                total_steps=self.plan.total_steps,
                save_due=self._save_every.is_due(self.step),
                early_stop_reason=self._stopper.reason,
            ),
            agreed,
        )
        if decision.ending is Ending.STOPPED:
            decision = replace(decision, reason=self._reason_of_script())
        if decision.save:
            self._boundary.drain()
            self._save(decision)
        if decision.ending is None:
            return None
        self._log.flush(self._boundary.receive())
        return decision

    def _reason_of_script(self) -> str:
        """Return what the ranks that called `stop` said. Called on every rank."""
        given = self.run.communicator.all_gather(self._asked_to_stop)
        reasons = dict.fromkeys(str(reason) for reason in given if reason is not None)
        return f"the script asked: {'; '.join(reasons)}"

    def _report(self, step: Step) -> Report:
        assert step.outcome is not None
        interval_s = self._save_every.seconds
        return Report(
            step=self.step,
            preempt=self.run.preemption.requested,
            stop=self._asked_to_stop is not None,
            save=(
                self._ranks.is_coordinator
                and interval_s is not None
                and self.run.clock() - self._last_save_s >= interval_s
            ),
            skipped=not step.outcome.applied,
            loss_sum=float(step.loss_sum),
            loss_count=step.loss_count,
        )

    def _judge(self, step: Step) -> None:
        rule = self.recipe.stop
        assert rule is not None
        if rule.monitor not in step.metrics:
            raise ConfigError(
                f'EarlyStopping monitors "{rule.monitor}", and the evaluation after step '
                f"{self.step} measured {sorted(step.metrics) or 'nothing'}. Call step.evaluate "
                "whenever step.evaluation_due is true, or monitor one of these."
            )
        before = self._stopper
        self._stopper, is_best = rule.update(before, step.metrics[rule.monitor], step=self.step)
        if is_best:
            self._save_best(before)

    def _save_best(self, before: EarlyStoppingState) -> None:
        try:
            self._keeper.save_best(self.step, self._state(None))
        except SaveFailedError as error:
            # The best is what can be exported: the former one stays the best.
            self._stopper = replace(self._stopper, best=before.best, best_step=before.best_step)
            self._log.save_failed(self.step, error)

    def _count_skipped(self, *, applied: bool) -> None:
        self._skipped_in_a_row = 0 if applied else self._skipped_in_a_row + 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise StrategyError(
                f"the gradients were not finite in {self._skipped_in_a_row} steps in a row, the "
                f"last one step {self.step - 1}. Lower the learning rate, clip with max_grad_norm, "
                "or look at the data; the newest checkpoint is from before."
            )

    def _evaluate(self, dataset: MapDataset, measure: Measure, name: str) -> dict[str, float]:
        return evaluate(
            self._strategy,
            self._ranks,
            self._boundary,
            dataset,
            measure,
            micro_batch=self.plan.micro_batch,
            workers=self.recipe.workers,
            name=name,
            beat=self.run.heartbeat.beat,
        )

    def _rate(self) -> float:
        return float(self._strategy.param_groups[0]["lr"])

    # ---------------------------------------------------------------- state

    def _save(self, decision: Decision) -> None:
        began_s = self.run.clock()
        try:
            saved = self._keeper.save(self.step, self._state(decision.ending))
        except SaveFailedError as error:
            # The run is worth more than one checkpoint; a final state that is lost is a failure.
            if decision.ending is not None and decision.ending.is_final:
                raise
            self._log.save_failed(self.step, error)
        else:
            self._log.saved(saved, self.run.clock() - began_s)
        self._last_save_s = self.run.clock()

    def _state(self, ending: Ending | None) -> dict[str, JSON]:
        return {
            "step": self.step,
            "data": {
                "epoch": self.plan.epoch_of(self.step),
                "position": self.plan.position(self.step),
                **self._identity(),
                "micro_batch": self.plan.micro_batch,
            },
            "random": {"seed": self.run.seed, "rule": SEEDING_RULE},
            "schedule": {"step": self.step, "total_steps": self.plan.total_steps},
            "early_stopping": self._stopper.to_json(),
            "loss_scale": self._scale.to_json(),
            "ending": ending.value if ending is not None and ending.is_final else None,
        }

    def _identity(self) -> dict[str, JSON]:
        """What must not change inside a run: a step would mean other samples."""
        return {
            "num_samples": self.plan.num_samples,
            "global_batch": self.plan.global_batch,
            "seed": self.run.seed,
        }

    def _digest(self) -> JSON:
        return {
            **self._identity(),
            "micro_batch": self.plan.micro_batch,
            "epochs": self.plan.epochs,
            "strategy": self.run.strategy,
            "precision": self.run.precision.name,
        }

    def _resume(self) -> None:
        restored = self._keeper.restore()
        if restored is not None:
            self._take_over(restored)
        self._log.started(self.step, restored)

    def _take_over(self, restored: Restored) -> None:
        state = restored.state
        for name, mine in self._identity().items():
            if state["data"][name] != mine:
                raise ConfigError(
                    f"the run in {self.run.folder.path} was made with "
                    f"{name}={state['data'][name]}, and the script now has {name}={mine}: its "
                    "steps would mean other samples. Use the same, or another --run-dir."
                )
        self.step = restored.step
        self._stopper = EarlyStoppingState.from_json(state["early_stopping"])
        self._scale = self._scale.restored(state["loss_scale"])
        self._stopped_by_script = state["ending"] == Ending.STOPPED
        values, changes = merge(
            self._strategy.group_names, self._requested, state["optimizer"]["groups"]
        )
        put_in_force(self._strategy.param_groups, values)
        changes += self._changed_plan(state)
        self._log.restored(restored, changes)

    def _changed_plan(self, state: Any) -> list[str]:
        before = {
            "micro_batch": (state["data"]["micro_batch"], self.plan.micro_batch),
            "total_steps": (state["schedule"]["total_steps"], self.plan.total_steps),
        }
        return [f"{name}: {old} -> {new}" for name, (old, new) in before.items() if old != new]

    def _ending_at_start(self) -> Decision | None:
        if self._stopped_by_script:
            return Decision(save=False, ending=Ending.STOPPED, reason="job.stop() was called")
        decision = decide(
            Progress(
                step=self.step,
                total_steps=self.plan.total_steps,
                save_due=False,
                early_stop_reason=self._stopper.reason,
            ),
            None,
        )
        return decision if decision.ending is not None else None

    # ---------------------------------------------------------------- weights

    def _weights(self, which: str) -> tuple[Any, int]:
        if which not in ("best", "last"):
            raise ConfigError(f'unknown weights "{which}"; choose from best, last.')
        if which == "best" and self._stopper.best_step is not None:
            return self.run.folder.best, self._stopper.best_step
        return self.run.folder.checkpoints, self.step

    def _restore_weights(self, which: str) -> None:
        _, step = self._weights(which)
        if which == "best" and self._stopper.best_step is not None:
            self._keeper.restore_best(step)
        else:
            self._keeper.restore_last(step)
