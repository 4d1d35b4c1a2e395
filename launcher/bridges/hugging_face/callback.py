"""Hugging Face's Trainer, and those derived from it such as trl's: leave together, and resume.

    trainer = Trainer(..., callbacks=[RelaunchCallback()])
    trainer.train(resume_from_checkpoint=RelaunchCallback.last(args))

The Trainer calls a callback at each step and each batch of an evaluation. There all ranks vote, on
a group of their own; what follows depends on the sum alone. The checkpoint is Trainer's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from ...contract.exit_codes import USAGE
from ..leaving import leave_for_notice
from ..random_states import random_states
from ..rank_notices import RankNotices, this_rank
from ..records import BridgeRecords
from ..versions import TRANSFORMERS
from .checkpoints import amend, newest_complete, read_seal, step_of
from .data_place import DataPlace, is_amid_generated
from .facts import StartFacts
from .saving import TrainerSaving
from .state import restore_callbacks, restore_optimizer
from .synced_reference import SyncedReference
from .texts import over_text, strategy_of, unfit_text

BRIDGE = "RelaunchCallback"

_USED = (
    *("_save_checkpoint", "_maybe_log_save_evaluate", "_run_epoch", "_get_output_dir"),
    *("_load_rng_state", "_evaluate", "_determine_best_metric", "_push_from_checkpoint"),
)
"""Of Trainer, beside what is public."""


class RelaunchCallback(TrainerCallback):  # type: ignore[misc]
    """Lets all ranks leave with 75 after the same step, saved, when one has a preemption notice.

    Made on every rank, on the main thread. From then on SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and
    Ctrl-C are a notice. Before the first step they end the rank at once, since there is nothing to
    save; later at the end of the step under way, or at the next batch of an evaluation, which the
    same command repeats.
    """

    def __init__(self) -> None:
        self._rank: RankNotices = this_rank()
        self._loop: _Loop | None = None

    @staticmethod
    def last(args: Any) -> str | None:
        """Return the newest complete checkpoint, the same on every rank; None: there is none.

        Called on every rank, after the Trainer is made. For `resume_from_checkpoint`. Ends the rank
        with a sentence where it does not find the checkpoint that rank 0 resumes from.

        Args:
            args: The `TrainingArguments`.
        """
        rank = this_rank()
        _ = args.device  # makes the process groups, if nothing has before
        agreement = rank.agreement()
        warn = rank.console.warn
        found = newest_complete(Path(args.output_dir), warn) if rank.is_coordinator else None
        step = int(agreement.of_coordinator(-1 if found is None else step_of(found)))
        path = Path(args.output_dir) / f"checkpoint-{step}"
        is_absent = step >= 0 and not path.is_dir()
        if agreement.any(is_absent):
            if is_absent:
                rank.refuse(
                    f"rank 0 resumes from checkpoint-{step}, and rank {rank.environment.rank} has "
                    f"no {path}. Give all nodes one file system for output_dir."
                )
            sys.exit(USAGE)  # the sentence is the other rank's
        return str(path) if step >= 0 else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the run folder and record the start; repeat an evaluation that is owed."""
        if self._loop is None:
            trainer = _trainer_above(self)
            absent = [name for name in _USED if not hasattr(trainer, name)]
            if absent:
                found = version("transformers")
                self._rank.refuse(TRANSFORMERS.changed_text(BRIDGE, found, absent))
            if (text := unfit_text(args, strategy_of(trainer, 2))) is not None:
                self._rank.refuse(text)
            self._loop = _Loop(trainer, self._rank)
        self._loop.begin(_checkpoint_above())

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From now on there is something to save."""
        self._rank.start.end()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Vote on leaving."""
        if self._loop is not None:
            self._loop.end_step(control)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Send a heartbeat during an accumulated step."""
        self._rank.heartbeat.beat()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note where the random numbers are, if an evaluation follows."""
        if self._loop is not None:
            self._loop.before_evaluation(control)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Vote on leaving, in an evaluation during the training."""
        self._rank.heartbeat.beat()
        if self._loop is not None:
            self._loop.evaluate_batch()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note that whether to stop is to be agreed on."""
        if self._loop is not None:
            self._loop.has_evaluated = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write a line of metrics.jsonl."""
        if self._loop is not None and logs:
            self._loop.records.metrics(state.global_step, logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record the end."""
        if self._loop is not None:
            self._loop.end()


class _Loop:
    """One Trainer's training, from a start to its end."""

    def __init__(self, trainer: Any, rank: RankNotices) -> None:
        self._trainer = trainer
        self._rank = rank
        self._start = StartFacts(trainer, rank.environment.world_size)
        self._place = DataPlace(trainer, rank.environment.rank)
        self._reference = SyncedReference(trainer, writes=rank.is_coordinator)
        self._saving = TrainerSaving(
            trainer,
            rank,
            self._facts,
            rotate=_rotate,
            write_more=(self._place.write, self._reference.write),
        )
        self._boundary = trainer._maybe_log_save_evaluate
        self._epoch = trainer._run_epoch
        self.records = BridgeRecords(rank, rank.run_dir(trainer.args.output_dir))
        self.has_evaluated = False
        self._is_leaving = False
        self._is_training = False
        self._owes_evaluation = False
        self._restore: Callable[[], None] | None = None
        """Puts random numbers back to where they were before the evaluation under way."""
        self._best_step: int | None = None
        trainer._save_checkpoint = self._save
        trainer._maybe_log_save_evaluate = self._at_boundary
        trainer._run_epoch = self._run_epoch

    def begin(self, checkpoint: Path | None) -> None:
        trainer, rank = self._trainer, self._rank
        rank.handle_signals_again()
        rank.agreement()
        args, state = trainer.args, trainer.state
        self.records.begin(
            step=state.global_step,
            strategy=strategy_of(trainer, rank.environment.world_size),
            precision="bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
            device=args.device.type,
            is_resumed=checkpoint is not None,
            environ=os.environ,
        )
        if rank.is_coordinator:
            self._saving.clear()
        if (text := TRANSFORMERS.warning(BRIDGE, version("transformers"))) is not None:
            rank.console.warn(text)
        if args.enable_jit_checkpoint:
            rank.console.warn(
                "enable_jit_checkpoint has no effect with RelaunchCallback, which saves at the "
                "end of the step under way; leave it out."
            )
        self._is_training = True
        self._best_step = state.best_global_step
        self._place.begin()
        sealed = {} if checkpoint is None else read_seal(checkpoint) or {}
        if checkpoint is not None:
            rank.console.say(f"resuming from step {state.global_step}, {checkpoint}")
            restore_callbacks(trainer.callback_handler.callbacks, state.stateful_callbacks)
            restore_optimizer(trainer.optimizer, checkpoint)
            same_ranks = sealed.get("world_size") == rank.environment.world_size
            self._place.resume(checkpoint, same_ranks=same_ranks)
            self._reference.restore(checkpoint)
            for text in self._start.told(sealed):
                self.records.noted(text)
        if checkpoint is not None and sealed.get("owes_evaluation"):
            self._repeat_evaluation(checkpoint)
        if (text := over_text(sealed, state.global_step, state.max_steps)) is not None:
            rank.console.say(text)
            trainer.control.should_training_stop = True

    def end_step(self, control: Any) -> None:
        """Vote; what is due at this step is done by the Trainer right after."""
        state = self._trainer.state
        self._rank.heartbeat.beat(state.global_step)
        is_amid = is_amid_generated(self._trainer)  # on all ranks or on none
        if is_amid or not self._rank.agreement().any(self._rank.flag.requested):
            self.before_evaluation(control)
            return
        self._is_leaving = control.should_save = True
        is_epoch_end = float(state.epoch).is_integer()
        by_epoch = str(getattr(self._trainer.args.eval_strategy, "value", "")) == "epoch"
        self._owes_evaluation = control.should_evaluate or (is_epoch_end and by_epoch)
        control.should_evaluate = False

    def before_evaluation(self, control: Any) -> None:
        self._restore = random_states() if control.should_evaluate else None

    def evaluate_batch(self) -> None:
        # Before the first step a notice ends each rank by itself, and after the training the
        # script has its result.
        if not self._is_training or self._rank.start.is_under_way or self._is_leaving:
            return
        if is_amid_generated(self._trainer):
            return
        if not self._rank.agreement().any(self._rank.flag.requested):
            return
        self._is_leaving = self._owes_evaluation = True
        if self._restore is not None:
            self._restore()
        output = Path(self._trainer._get_output_dir(None))
        if not self._rank.agreement().any(self._saving.newest(output) is None):
            if self._rank.is_coordinator:
                amend(
                    output / f"checkpoint-{self._trainer.state.global_step}", owes_evaluation=True
                )
        else:
            self._save(self._trainer.model, None)
        self._leave()

    def end(self) -> None:
        state = self._trainer.state
        self._is_training = False
        has_all = state.global_step >= state.max_steps
        output = Path(self._trainer._get_output_dir(None))
        # Where all steps are done more may be asked for, and the number of steps tells by itself.
        is_saved = self._saving.newest(output) is not None
        if self._rank.is_coordinator and is_saved and not has_all:
            amend(output / f"checkpoint-{state.global_step}", has_ended=True)
        self.records.ended(
            state.global_step,
            "completed" if has_all else "early stop",
            f"{state.max_steps} steps" if has_all else "a callback has ended the training",
            None,
        )

    def _save(self, model: Any, trial: Any) -> None:
        step = int(self._trainer.state.global_step)
        try:
            saved = self._saving.save(model, trial)
        except OSError as error:  # on every rank, with the same words
            if not self._is_leaving:
                raise
            self._leave(str(error))
        self.records.saved(step, size_bytes=saved.size_bytes, seconds=saved.seconds)

    def _at_boundary(self, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save as Trainer does, then leave if that was agreed."""
        self.has_evaluated = False
        self._boundary(*args, **kwargs)
        if self._is_leaving:
            self._leave()
        if self.has_evaluated:
            self._agree_on_stop()

    def _agree_on_stop(self) -> None:
        """Stop on all ranks, where one of them would stop alone after an evaluation."""
        control, state = self._trainer.control, self._trainer.state
        stopping = self._rank.agreement().sums(control.should_training_stop)[0]
        if 0 < stopping < self._rank.environment.world_size:
            self.records.noted(
                f"{stopping:.0f} of {self._rank.environment.world_size} ranks stop after the "
                f"evaluation at step {state.global_step}, so all do: what it measured differs "
                "between ranks. Let compute_metrics use what all ranks have."
            )
        control.should_training_stop = stopping > 0
        if state.best_global_step not in (None, self._best_step):
            self._best_step = state.best_global_step
            name = str(self._trainer.args.metric_for_best_model)
            name = name if name.startswith("eval_") else f"eval_{name}"
            self.records.best(int(state.best_global_step), name, float(state.best_metric))

    def _run_epoch(self, **asked: Any) -> None:
        trainer = self._trainer
        if trainer.control.should_training_stop:  # by an evaluation that was owed
            return
        load = trainer._load_rng_state
        try:
            self._epoch(**self._place.open(asked))
        finally:
            trainer._load_rng_state = load

    def _repeat_evaluation(self, checkpoint: Path) -> None:
        """Do the evaluation that a notice has broken off, with the random numbers that it had."""
        trainer = self._trainer
        step = trainer.state.global_step
        self._rank.console.say(f"repeating the evaluation at step {step}, interrupted by a notice")
        self._place.load()
        metrics = trainer._evaluate(None, None)
        if trainer._determine_best_metric(metrics=metrics, trial=None):
            trainer.state.best_model_checkpoint = str(checkpoint)
        self._place.load = random_states()
        self._agree_on_stop()
        self._rank.agreement().meet()
        if self._rank.is_coordinator:
            amend(checkpoint, owes_evaluation=False)

    def _leave(self, failure: str | None = None) -> NoReturn:
        rank, step = self._rank, int(self._trainer.state.global_step)
        output, newest = Path(self._trainer._get_output_dir(None)), step
        if failure is not None:
            found = newest_complete(output, rank.console.warn) if rank.is_coordinator else None
            own_step = -1 if found is None else step_of(found)
            newest = int(rank.agreement().of_coordinator(own_step))
        leave_for_notice(
            rank,
            self.records,
            step=step,
            newest=newest if newest >= 0 else None,
            failure=failure,
            folder=output,
        )

    def _facts(self) -> dict[str, Any]:
        return {**self._start.read(), "owes_evaluation": self._owes_evaluation}


def _rotate(output: Path, trainer: Any) -> None:
    rotate_checkpoints(
        output_dir=str(output),
        save_total_limit=trainer.args.save_total_limit,
        best_model_checkpoint=trainer.state.best_model_checkpoint,
        use_mtime=True,
    )


def _trainer_above(callback: RelaunchCallback) -> Any:
    """Return the Trainer that has called: Hugging Face gives it to no callback."""
    for found in _locals_above("self"):
        handler = getattr(found, "callback_handler", None)
        if callback in getattr(handler, "callbacks", ()):
            return found
    return this_rank().refuse(f"{BRIDGE} was not called by a Trainer of Hugging Face's.")


def _checkpoint_above() -> Path | None:
    """Return the checkpoint from which the Trainer that has called resumes."""
    found = (
        name
        for name in _locals_above("resume_from_checkpoint")
        if isinstance(name, str | os.PathLike)
    )
    return next(map(Path, found), None)


def _locals_above(name: str) -> Iterator[object]:
    """Yield the variables of a name in the calls that are under way, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if name in frame.f_locals:
            yield frame.f_locals[name]
        frame = frame.f_back
