"""The engine of `Resumable`: what happens between two steps of a loop that is the script's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from checkpointing import JSON, Retention
from strategies import (
    Agreed,
    AgreedNotice,
    ConfigError,
    Decision,
    Ending,
    Look,
    Metrics,
    Objects,
    Progress,
    Report,
    current_hyperparameters,
    decide,
)
from strategies.collectives.late_number import LateNumber
from strategies.parallel.state.trained_state import TrainedState

from ...contract.exit_codes import CONTINUE
from ...contract.files.leaving import tell_leaving
from ..context import RunContext
from ..ending.agreed_end import reason_of_script, require_checkpoint
from ..loop.evaluation_rules import EvaluationRules
from ..recipe.asked import agreed_asked, changes_of_asked, layers_of
from ..run_state import RunState
from ..saving.checkpointer import Checkpointer
from ..saving.save_at_boundary import SaveAtBoundary
from .agreement import Agreement, agreed_metrics
from .data.position import DataPosition, Place
from .own_changes import OwnChanges
from .own_log import OwnLog
from .own_state import moved_place, restored_state, resume_report, state_to_json
from .random_state import random_state, set_random_state
from .rank_places import RankPlaces
from .settings import Settings
from .start import look_of
from .watch import Watch

_WITHOUT_END = 2**62


class OwnLoop:
    """One loop. Every method that is not a property is called on every rank."""

    def __init__(
        self,
        run: RunContext,
        strategy: TrainedState,
        settings: Settings,
        objects: Objects,
        data: DataPosition | None,
        models: Mapping[str, torch.nn.Module],
    ) -> None:
        """Resume from the newest checkpoint.

        Raises:
            ConfigError: it is of another model, optimizer or loop.
        """
        self._run, self._strategy, self._settings, self._data = run, strategy, settings, data
        self._objects = objects
        self._places = RankPlaces(run.ranks.rank)
        self._rules = EvaluationRules(stop=settings.stop, plateau=None)
        self._log = OwnLog(run, strategy, log_every=settings.log_every)
        self._checkpointer = Checkpointer(
            run,
            strategy,
            strategy_name=run.asked_strategy,
            retention=Retention(keep=settings.keep, keep_best=int(settings.stop is not None)),
            requested=current_hyperparameters(strategy.param_groups),
            objects={**objects, RankPlaces.NAME: self._places},
        )
        self._saver = SaveAtBoundary(run, self._checkpointer, self._log, settings.save.every)
        self._changes = OwnChanges(strategy.optimizers, models)
        self._asked = agreed_asked(run, settings, layers_of(*models.values()))
        for one in strategy.optimizers:
            one.register_step_pre_hook(self._before_update)
        self._boundary = Agreement(run.ranks, settings.text, self._look)
        self.watch = Watch(run.ranks, end_process=run.lockstep.end_process)
        self._samples_of_batch = 1 if data is None else data.batch_size or 1
        self._state, self.steps_done = RunState(), 0
        self._place, self._num_given = Place(), 0
        self.asked_to_stop: str | None = None
        """What the script said when it called `run.stop()` on this rank."""
        self.evaluation_due = self.ends_epoch = False
        self._epoch_random: Any = None
        self._pending: tuple[Agreed | None, AgreedNotice | None] | None = None
        self._num_updates = self._num_steps = 0
        self._batch_of_step = 0
        self._batches_left: int | None = None
        """Of the present epoch; None: not known."""
        self.is_leaving = False
        """The ranks leave with 75 now."""
        self._resume()

    # --- where the run is ---

    # A step and a batch only count. What is made of the counts is a value of several fields, which
    # takes as long as all else that a step does here, and is asked for at a save or an evaluation.

    @property
    def state(self) -> RunState:
        """Return where the run is."""
        if self._state.step != self.steps_done:
            self._state = replace(self._state, step=self.steps_done)
        return self._state

    @state.setter
    def state(self, state: RunState) -> None:
        self._state, self.steps_done = state, state.step

    @property
    def place(self) -> Place:
        """Return how much of the epoch is done."""
        if self._num_given:
            batches = self._place.batches + self._num_given
            samples = self._place.samples + self._num_given * self._samples_of_batch
            self.place = Place(epoch=self._place.epoch, batches=batches, samples=samples)
        return self._place

    @place.setter
    def place(self, place: Place) -> None:
        self._place, self._num_given = place, 0

    @property
    def epoch(self) -> int:
        """The present epoch, 0-based."""
        return self._place.epoch

    # --- the data ---

    def open_epoch(self) -> Any:
        """Return the batches of the present epoch from the present place on."""
        assert self._data is not None
        self._batches_left = self._data.left(self.place)
        ranks, generators = self._run.ranks, self._data.generators
        mine, self._places.restored = self._places.restored, None
        begun = self.place.batches > 0 or self.place.samples > 0
        if mine is None or not begun:
            if mine is not None:
                set_random_state(mine["random"], ranks.device, generators)
                self._data.restore(mine["loader"])
            self._epoch_random = random_state(ranks.device, generators)
            return self._data.open(self.place)
        # What drew the order of this epoch at its begin draws it again; then all is as it was here.
        set_random_state(mine["epoch"], ranks.device, generators)
        self._epoch_random = mine["epoch"]
        self._data.restore(mine["loader"])
        batches = self._data.open(self.place)
        set_random_state(mine["random"], ranks.device)
        return batches

    def begin_batch(self, batch: Any) -> Any:
        """Count a batch that the script is given now; return it as the script is to have it."""
        assert self._data is not None
        if self.watch.batches == 0:
            self._run.before_first_step.end()
            self._changes.attributes.begin(self._state.set_by_loop)
        self._run.lockstep.step = self.steps_done
        self.watch.batches += 1
        self._num_given += 1
        if self._batches_left is not None:  # counted down: to ask the sampler takes longer
            self._batches_left -= 1
        self.ends_epoch = self._batches_left == 0
        self.evaluation_due = False
        return self._data.ready(batch)

    def begin_epoch(self, epoch: int) -> None:
        """Continue to the begin of another epoch."""
        self.place = Place(epoch=epoch)

    # --- the steps ---

    def step(self, loss: torch.Tensor | float | None) -> None:
        """Count an optimizer step, and agree with the other ranks about the one before."""
        if self._pending is not None:
            raise ConfigError(
                "run.step was called twice for one batch. Call it once for each optimizer step, at "
                "the end of the loop's body; several optimizers that step in turns are one step."
            )
        if self._batch_of_step == self.watch.batches:
            raise ConfigError(
                "run.step was called outside of `for epoch, batch in run.batches()`, which says "
                "where in the data the run is. Call it at the end of that loop's body."
            )
        former, self._batch_of_step = self._batch_of_step, self.watch.batches
        self._warn_of_accumulation()
        self.steps_done += 1
        step, epoch = self.steps_done, self.epoch
        self._run.lockstep.has_trained = True
        self.watch.calls += 1
        report = Report(
            step=step,
            stop=self.asked_to_stop is not None,
            save=self._run.ranks.is_coordinator and self._saver.pace.is_due_now(),
            settled=self._checkpointer.is_settled(),
            loss_sum=0.0 if loss is None else LateNumber(torch.as_tensor(loss)),
            loss_count=float(loss is not None),
        )
        with self.watch.waiting("run.step", calls=self.watch.calls - 1, batch=former):
            agreed, notice = self._boundary.passed(report)
        self._pending = agreed, notice
        self._run.heartbeat.beat(step)
        self._saver.passed()
        self._log.step(step, epoch, agreed)
        due = self._settings.evaluate
        self.evaluation_due = due.is_due(step, epoch, ends_epoch=self.ends_epoch)

    def evaluated(self, metrics: Mapping[str, Any], *, average: bool) -> Metrics:
        """Take what was measured after the newest step; return it as all ranks have it.

        Raises:
            ConfigError: the ranks measured differently, or not what early stopping monitors.
        """
        self.watch.calls += 1
        calls, batch = self.watch.calls, self.watch.batches
        own = {name: float(value) for name, value in metrics.items()}
        with self.watch.waiting("run.evaluated", calls=calls, batch=batch):
            everyone = self._boundary.metrics(own)
        found = agreed_metrics(everyone, average=average)
        monitor = None if self._settings.stop is None else self._settings.stop.monitor
        if monitor is not None and monitor not in found:
            raise ConfigError(
                f'EarlyStopping monitors "{monitor}", and run.evaluated was given '
                f"{', '.join(sorted(found)) or 'nothing'}. Give it that, or monitor one of these."
            )
        self._log.evaluated(found)
        if self._rules.has_rules:
            self._judge(found)
        return found

    def boundary(self) -> bool:
        """Do what the ranks have agreed on, once the script has done all of a step.

        Returns:
            Whether the loop is over.

        Raises:
            Preempted: the ranks are to leave, and all is saved.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return False
        decision = decide(self._progress(), *pending)
        if decision.ending is Ending.STOPPED:
            reason = reason_of_script(self._run.communicator, self.asked_to_stop)
            decision = replace(decision, reason=reason)
            self.state = replace(self.state, stopped_because=decision.reason)
        self._carry_out(decision)
        return decision.ending is not None

    def finish(self, ending: Ending, reason: str) -> None:
        """End a loop that is done, or that the script has left; save where it is."""
        calls, batch = self.watch.calls, self._batch_of_step
        with self.watch.waiting("the end of the loop", calls=calls, batch=batch):
            self._boundary.drain()
        save = self._checkpointer.newest_step != self.state.step or ending is Ending.STOPPED
        if ending is Ending.STOPPED:
            self.state = replace(self.state, stopped_because=reason)
        concludes = self._checkpointer.saving_since is not None
        self._carry_out(Decision(save=save, conclude=concludes, ending=ending, reason=reason))

    def is_over(self) -> bool:
        """Return whether an earlier start has ended the run for good, and report it then."""
        decision = decide(self._progress(), None)
        if decision.ending is not None:
            self._log.already_over(decision)
        return decision.ending is not None

    def hold_best(self) -> None:
        """Put the best weights into the model, where early stopping is to leave those."""
        stop, best = self._settings.stop, self.state.stopper.best_step
        if stop is None or stop.restore != "best" or best in (None, self.state.step):
            return
        self._checkpointer.restore_weights(self._run.folder.best, int(best or 0))
        self._run.say(f"the model holds its best weights, of step {best}")

    def close(self) -> None:
        """End the process that writes for this rank; no collective."""
        self.watch.close()
        self._checkpointer.close()

    # --- within ---

    def _look(self) -> Look:
        if self._run.ranks.is_coordinator:
            return self._saver.clock.look()
        return look_of(self._run.preemption)

    def _before_update(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._changes.require_same_groups(optimizer)
        self._num_updates += 1
        self._saver.release_tensors()

    def _warn_of_accumulation(self) -> None:
        self._num_steps += 1
        if self._num_steps == 8 and 0 < 2 * self._num_updates <= self._num_steps:
            self._run.warn(
                f"run.step was called {self._num_steps} times, and optimizer.step "
                f"{self._num_updates} times. Call run.step only after optimizer.step: a resume "
                "would lose the gradients that are summed so far."
            )

    def _progress(self) -> Progress:
        step, state, save = self.steps_done, self._state, self._settings.save
        newest_step = self._checkpointer.newest_step
        return Progress(
            step=step,
            total_steps=_WITHOUT_END,
            save_due=save.is_due(step, self.epoch, ends_epoch=self.ends_epoch),
            early_stop_reason=state.stopper.reason,
            stopped_because=state.stopped_because,
            saving_since=self._checkpointer.saving_since,
            world_size=self._run.ranks.world_size,
            newest_step=newest_step,
            is_saved=newest_step == step,
        )

    def _carry_out(self, decision: Decision) -> None:
        if decision.save or decision.conclude or decision.proceed or decision.ending is not None:
            self._log.flush(self._boundary.drain())
        if decision.conclude:
            self.state = self._saver.conclude(self.state)
        if decision.proceed:
            self.state = self._saver.proceed(self.state)
        if decision.save:
            self._gather_places()
            self._saver.save(self.state.step, self._to_json(decision.ending), decision.ending)
        if decision.ending is not None:
            self._end(decision)

    def _end(self, decision: Decision) -> None:
        self._log.ended(decision, self.state, self._checkpointer.newest_step)
        if decision.ending is not Ending.PREEMPTED:
            return
        folder = self._run.folder.checkpoints.folder
        require_checkpoint(decision, self.state.step, self._checkpointer.newest_step, folder)
        tell_leaving(self._run.environment.leaving_file, CONTINUE)
        self.is_leaving = True

    def _gather_places(self) -> None:
        data, device = self._data, self._run.ranks.device
        mine = {
            "random": random_state(device, data.generators if data is not None else ()),
            "epoch": self._epoch_random,
            "loader": None if data is None else data.state(),
        }
        self._places.gather(mine, self._run.communicator)

    def _to_json(self, ending: Ending | None) -> dict[str, JSON]:
        held, num_ranks = self._changes.attributes.changed(), self._run.ranks.world_size
        state = replace(self.state, set_by_loop=held, asked=self._asked)
        return state_to_json(state, self.place, self._data, num_ranks, ending)

    def _judge(self, metrics: Metrics) -> None:
        self.state = self._saver.conclude_best(self.state)
        former = self.state.stopper
        self.state, is_best, _ = self._rules.after(self.state, metrics)
        if is_best:
            name = str(self.state.stopper.monitor)
            self.state = self._saver.start_best(
                self.state, self._to_json(None), former=former, name=name, value=metrics[name]
            )

    def _resume(self) -> None:
        restored = self._checkpointer.restore()
        data_name = "no loader" if self._data is None else self._data.name
        if restored is not None:
            world_size, where = self._run.ranks.world_size, self._run.folder.path
            self.state, self.place = restored_state(restored.state, where=where)
            self.place, by_loader, moved, lost = moved_place(
                restored.state, self.place, self._data, world_size, self._objects
            )
            self.state, by_rules = self._rules.resumed(self.state)
            asked_anew = changes_of_asked(self.state.asked, self._asked)
            by_script = [*restored.changes, *by_loader, *by_rules, *asked_anew]
            report = resume_report(
                restored.state,
                restored.created_by,
                now={"strategy": self._run.asked_strategy, "world_size": world_size},
                objects=list(self._objects),
                changes=[*by_script, *moved],
                not_promised=lost,
                same_ranks=restored.created_by.get("world_size") == world_size,
            )
            self._log.restored(restored, report, by_script)
        elif self._data is not None:
            self._log.noted([f"not promised: {one}" for one in self._data.not_promised])
        self._log.started(self.state.step, data_name, restored)
        if self._run.ranks.is_coordinator:
            self._saver.clock.remember(self._run.past_events)
