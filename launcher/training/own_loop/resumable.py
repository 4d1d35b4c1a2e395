"""`Resumable`: makes a script's own training loop resumable."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from strategies import ConfigError, EarlyStopping, Ending, Metrics
from strategies.parallel.live.live import live_state
from strategies.parallel.live.several import by_name

from ..start.run_path import run_path
from .adopted_ranks import adopted_ranks
from .data.position import DataPosition, data_position
from .kept_objects import kept_objects
from .own_changes import bare_models
from .own_loop import OwnLoop
from .settings import Settings
from .start import Start

_OPEN: set[Path] = set()
"""The run folders that this process has had a loop in."""


class Resumable:
    """Makes a loop resumable, on every rank of the script's own process group.

        with Resumable(model=model, optimizer=optimizer, loader=loader) as run:
            for epoch, batch in run.batches(epochs=4):
                ...
                run.step(loss=loss)

    A preemption notice on any rank lets all of them save after the same step and end with 75; the
    same command resumes at the next batch.
    """

    def __init__(
        self,
        *,
        model: Any,
        optimizer: Any = None,
        schedulers: Sequence[Any] = (),
        loader: Any = None,
        stop: EarlyStopping | None = None,
        objects: Mapping[str, Any] | None = None,
        evaluate_every: str = "1 epoch",
        save_every: str = "5 min",
        keep: int = 3,
        log_every: int = 10,
        run_dir: str | Path | None = None,
        checkpoints: str | Path | None = None,
    ) -> None:
        """Look at what the script has built; nothing is changed before `with`.

        Args:
            model: plain, in DistributedDataParallel, after fully_shard, compiled, or a DeepSpeed
                engine; or several, by name or in a list. One without an optimizer is frozen.
            optimizer: over its parameters; not for an engine, which has its own; or several, each
                with other parameters.
            schedulers: of torch, or with state_dict() and load_state_dict().
            loader: a DataLoader over a map-style data set, or one with state_dict().
            stop: ends the run for what `evaluated` is given.
            objects: what else is saved, by name, such as a GradScaler: with state_dict() and
                load_state_dict(), or state() and restore().
            evaluate_every: when `evaluation_due` is true, such as "1 epoch" or "100 steps".
            save_every: such as "5 min", "1 epoch", "100 steps" or "auto".
            keep: number of newest checkpoints to keep.
            log_every: steps between two records in metrics.jsonl.
            run_dir: the run folder, unless --run-dir is given; default: runs/<script's name>.
            checkpoints: a folder or a URL for checkpoints, unless --checkpoints is given.
        """
        self._start = Start()
        self._model, self._optimizer = model, optimizer
        self._schedulers, self._objects = schedulers, objects or {}
        self._loader = loader
        self._asked = {
            "stop": stop,
            "evaluate": evaluate_every,
            "save": save_every,
            "keep": keep,
            "log_every": log_every,
        }
        self._run_dir, self._checkpoints = run_dir, checkpoints
        self._accelerator: Any = None
        self._loop: OwnLoop | None = None
        self._data: DataPosition | None = None
        self._has_begun = self._is_done = False

    @classmethod
    def of(cls, accelerator: Any, **arguments: Any) -> Resumable:
        """Return the same for what `accelerator.prepare` has returned. Called on every rank.

        Within `accelerator.accumulate` a call of `step` counts where gradients are synchronised.
        What was registered for its checkpoints and its GradScaler are saved too.

        Args:
            accelerator: an `accelerate.Accelerator`.
            arguments: those of `Resumable`.
        """
        objects = dict(arguments.pop("objects", None) or {})
        if getattr(accelerator, "scaler", None) is not None:
            objects["the accelerator's GradScaler"] = accelerator.scaler
        for number, one in enumerate(getattr(accelerator, "_custom_objects", ())):
            objects[f"registered with the accelerator, {number}"] = one
        made = cls(**arguments, objects=objects)
        made._accelerator = accelerator
        return made

    def __enter__(self) -> Resumable:
        """Resume from the newest checkpoint. Called on every rank.

        Every rank ends with a sentence and code 2 where something in it cannot work.
        """
        try:
            self._loop = self._open()
        except BaseException as error:
            self._start.close(error)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Save where the script has left its loop, and release everything. Called on every rank."""
        loop = self._own
        try:
            if error is None and self._has_begun and not self._is_done:
                loop.finish(Ending.STOPPED, "the script left its loop")
                loop.hold_best()
        except BaseException as own:
            loop.close()
            self._start.close(own)
            raise
        loop.close()
        self._start.close(error)

    def batches(
        self, epochs: int | None = None, *, steps: int | None = None
    ) -> Generator[tuple[int, Any]]:
        """Yield (epoch, batch) from where the run was, to the end. Iterated on every rank.

        What is saved, and whether the ranks leave, is settled when the loop's body has ended.

        Args:
            epochs: of the whole run.
            steps: optimizer steps of the whole run, as `step` counts them.

        Raises:
            Preempted: after a save, if any rank got a preemption notice; the process ends with 75.
        """
        loop = self._own
        if (epochs is None) == (steps is None):
            raise ConfigError("run.batches needs either epochs= or steps=, of the whole run.")
        self._data = data_position(self._loader)
        self._has_begun = True
        if not loop.is_over():
            yield from self._batches(loop, epochs, steps)
        loop.hold_best()
        self._is_done = True

    def _batches(
        self, loop: OwnLoop, epochs: int | None, steps: int | None
    ) -> Generator[tuple[int, Any]]:
        while epochs is None or loop.epoch < epochs:
            epoch = loop.epoch
            if steps is not None and loop.steps_done >= steps:
                break
            for batch in loop.open_epoch():
                yield epoch, loop.begin_batch(batch)
                if loop.boundary():
                    if loop.is_leaving:
                        loop.close()
                        self._start.leave_to_be_continued()
                    return
                if steps is not None and loop.steps_done >= steps:
                    break
            else:
                loop.begin_epoch(epoch + 1)
                continue
            break
        loop.finish(Ending.COMPLETED, _all_done(epochs, steps))

    def step(self, loss: torch.Tensor | float | None = None) -> None:
        """Count an optimizer step. Called on every rank, after optimizer.step() and the schedulers.

        Args:
            loss: of this rank, the mean over its samples, 0-dim; its mean over the ranks goes into
                metrics.jsonl.

        Raises:
            ConfigError: it is called twice for a batch, or outside of `batches`.
            DesyncError: the ranks are not at the same step.
        """
        if self._accelerator is None or self._accelerator.sync_gradients:
            self._own.step(loss)

    @property
    def evaluation_due(self) -> bool:
        """Whether to evaluate after this step, by `evaluate_every`: the same on every rank."""
        return self._own.evaluation_due

    def evaluated(self, metrics: Mapping[str, Any], *, average: bool = False) -> Metrics:
        """Take what the script has measured after this step. Called on every rank.

        Args:
            metrics: numbers by name, such as {"val/loss": 0.3}; the same on every rank.
            average: whether each is to be averaged over the ranks first.

        Returns:
            What counts, the same on every rank.

        Raises:
            ConfigError: the ranks have other numbers, or `stop` monitors something else.
        """
        return self._own.evaluated(metrics, average=average)

    def stop(self, reason: str) -> None:
        """Ask for the run to end at the next step, on all ranks. One rank is enough."""
        self._own.asked_to_stop = reason

    @property
    def steps_done(self) -> int:
        """Optimizer steps of the whole run so far."""
        return self._own.steps_done

    @property
    def _own(self) -> OwnLoop:
        if self._loop is None:
            raise ConfigError("Resumable resumes in its `with` block: with Resumable(...) as run:")
        return self._loop

    def _open(self) -> OwnLoop:
        start = self._start
        settings = Settings.of(**self._asked)  # type: ignore[arg-type]
        objects = kept_objects(self._schedulers, self._objects)
        self._data = None if self._loader is None else data_position(self._loader)
        start.before_first_step.leave_if_asked()
        ranks = adopted_ranks(start.environment, _device_of(self._model))
        strategy = live_state(self._model, self._optimizer, ranks)
        path = run_path(start.environment, self._run_dir)
        if path in _OPEN:
            raise ConfigError(
                f"this script has had a Resumable in {path} already: two would mix their records "
                "and checkpoints. Give each its own run_dir=."
            )
        _OPEN.add(path)
        context = start.context(
            ranks, strategy=strategy.name, run_dir=self._run_dir, checkpoints=self._checkpoints
        )
        start.before_first_step.leave_if_asked()
        models = bare_models(self._model)
        return OwnLoop(context, strategy, settings, objects, self._data, models)


def _device_of(model: Any) -> torch.device:
    """Return where the model is; the CPU where it has no parameter, which is refused later."""
    if several := by_name(model, "model"):
        model = next(iter(several.values()))
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if callable(parameters) else None
    return torch.device("cpu") if first is None else first.device


def _all_done(epochs: int | None, steps: int | None) -> str:
    return f"all {steps} steps are done" if epochs is None else f"all {epochs} epochs are done"
