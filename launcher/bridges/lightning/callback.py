"""Lightning's Trainer: leave together with 75, and resume at the next batch.

    trainer = Trainer(..., callbacks=[RelaunchLightning()])
    trainer.fit(model, ResumableLoader(...))

All ranks vote after each optimizer step. The checkpoint is Lightning's own, with the state of each
rank's random numbers, which Lightning leaves out. The next `fit` finds it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.callbacks import Callback

from ..leaving import leave_for_notice
from ..random_states import read_random_states, write_random_states
from ..rank_notices import RankNotices, this_rank
from ..records import BridgeRecords, usual_run_dir
from ..rounded_state import restore_rounded
from ..versions import LIGHTNING
from .checkpoints import newest_whole, publish
from .texts import loader_text, ranks_text, world_text

BRIDGE = "RelaunchLightning"
_USED = ("_checkpoint_connector", "_data_connector", "fit_loop")
"""Of Trainer, beside what is public."""


class RelaunchLightning(Callback):  # type: ignore[misc]
    """Lets all ranks leave with 75 after the same step, saved, when one has a preemption notice.

    Made on every rank, on the main thread. From then on SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and
    Ctrl-C are a notice; Lightning's own handler, which would end the process with 0, is not used.
    Before the first step a notice ends the rank at once. A validation that is under way or due is
    finished first.
    """

    def __init__(self) -> None:
        self._rank: RankNotices = this_rank()
        self._path = self._rank.run_dir(usual_run_dir(self._rank.environment))
        self._records = BridgeRecords(self._rank, self._path)
        self._restored: Mapping[str, Any] = {}
        self._optimizer_states: Sequence[Mapping[str, Any]] = ()
        self._step = 0
        self._is_leaving = False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let `fit` resume from the newest checkpoint, unless it is given one."""
        if stage != "fit":
            return
        absent = [name for name in _USED if not hasattr(trainer, name)]
        if absent:
            self._rank.refuse(LIGHTNING.changed_text(BRIDGE, version("lightning"), absent))
        if (text := world_text(int(trainer.world_size), self._rank.environment)) is not None:
            self._rank.refuse(text)
        folders = [self._folder, *_folders_of(trainer)]
        found = newest_whole(folders) if self._rank.is_coordinator else None
        step = int(self._rank.agreement().of_coordinator(-1 if found is None else found[0]))
        if step < 0:
            return
        if not self._rank.is_coordinator:
            found = newest_whole(folders)
        is_absent = found is None or found[0] != step
        if self._rank.agreement().any(is_absent):
            self._rank.refuse(
                f"rank 0 resumes from step {step}, and not every rank finds that checkpoint in "
                f"{', '.join(map(str, folders))}. Give all nodes one file system for --run-dir."
            )
        assert found is not None
        path = str(found[1])
        connector = trainer._checkpoint_connector
        restore = connector._restore_modules_and_callbacks

        def restore_newest(given: Any = None, *rest: Any, **named: Any) -> None:
            restore(path if given is None else given, *rest, **named)

        connector._restore_modules_and_callbacks = restore_newest
        self._rank.console.say(f"resuming from step {step}, {path}")

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the signals back from Lightning."""
        self._rank.handle_signals_again()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Record the start, and put back the random numbers and what torch has rounded."""
        rank = self._rank
        for optimizer, saved in zip(trainer.optimizers, self._optimizer_states, strict=False):
            restore_rounded(optimizer, saved)
        self._optimizer_states = ()
        rank.handle_signals_again()
        rank.agreement()
        loaders = trainer.fit_loop._combined_loader.flattened
        if (text := loader_text(loaders)) is not None:
            rank.refuse(text)
        self._step = int(trainer.global_step)
        self._records.begin(
            step=self._step,
            strategy=_strategy_of(trainer, rank.environment.world_size),
            precision=str(trainer.precision),
            device=pl_module.device.type,
            is_resumed=self._step > 0,
            environ=os.environ,
        )
        if (warning := LIGHTNING.warning(BRIDGE, version("lightning"))) is not None:
            rank.console.warn(warning)
        if self._step > 0:
            world_size = rank.environment.world_size
            if (note := ranks_text(self._restored.get("world_size"), world_size)) is not None:
                self._records.noted(note)
            else:
                write_random_states(self._restored["random"][rank.environment.rank])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """From now on there is something to save."""
        self._rank.start.end()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Vote on leaving, after each optimizer step."""
        self._rank.heartbeat.beat()
        if int(trainer.global_step) == self._step:
            return  # gradients are accumulated
        self._step = int(trainer.global_step)
        self._rank.heartbeat.beat(self._step)
        self._records.metrics(self._step, trainer.callback_metrics)
        self._is_leaving = self._is_leaving or self._rank.agreement().any(self._rank.flag.requested)
        if self._is_leaving and not _validates_now(trainer):
            self._leave(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Record what was measured."""
        if trainer.sanity_checking:
            return
        self._records.metrics(self._step, trainer.callback_metrics)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Send a heartbeat during a validation."""
        self._rank.heartbeat.beat()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put every rank's random numbers into a checkpoint. Called on every rank."""
        world_size = self._rank.environment.world_size
        checkpoint["relaunch"] = {
            "world_size": world_size,
            "random": self._rank.agreement().gathered(read_random_states()),
        }

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep what the checkpoint says of random numbers and optimizers."""
        self._restored = checkpoint.get("relaunch", {})
        self._optimizer_states = checkpoint.get("optimizer_states", [])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Record the end."""
        is_early = trainer.should_stop
        self._records.ended(
            int(trainer.global_step),
            "early stop" if is_early else "completed",
            "a callback has ended the training" if is_early else "the last epoch or step is done",
            None,
        )

    @property
    def _folder(self) -> Path:
        return self._path / "lightning"

    def _leave(self, trainer: Any) -> NoReturn:
        rank, final = self._rank, self._folder / f"step={self._step}.ckpt"
        aside = self._folder / f".unfinished-{final.name}"
        failure = self._first_failure(lambda: trainer.save_checkpoint(aside))
        if failure is None:
            failure = self._first_failure(lambda: self._publish(aside, final))
        newest = self._step
        if failure is not None:
            folders = [self._folder, *_folders_of(trainer)]
            found = newest_whole(folders) if rank.is_coordinator else None
            newest = int(rank.agreement().of_coordinator(-1 if found is None else found[0]))
        leave_for_notice(
            rank,
            self._records,
            step=self._step,
            newest=newest if newest >= 0 else None,
            failure=failure,
            folder=self._folder,
        )

    def _publish(self, aside: Path, final: Path) -> None:
        if self._rank.is_coordinator:
            size_bytes, seconds = publish(aside, final)
            self._records.saved(self._step, size_bytes=size_bytes, seconds=seconds)

    def _first_failure(self, act: Callable[[], object]) -> str | None:
        """Do something on every rank; return why the first that failed did, the same on all."""
        ours = None
        try:
            act()
        except Exception as error:  # another rank waits for this one's word
            ours = f"{type(error).__name__}: {error}"
        texts = self._rank.agreement().texts(ours)
        return next((f"rank {n}: {text}" for n, text in enumerate(texts) if text), None)


def _validates_now(trainer: Any) -> bool:
    """Whether a validation or the epoch's end follows the batch that has just ended."""
    loop = trainer.fit_loop.epoch_loop
    return bool(
        loop.batch_progress.is_last_batch
        or loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
    )


def _folders_of(trainer: Any) -> list[Path]:
    """Return where the script's own ModelCheckpoints write, as far as it has said."""
    found = (getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks)
    return [Path(folder) for folder in found if folder]


def _strategy_of(trainer: Any, world_size: int) -> str:
    name = type(trainer.strategy).__name__.removesuffix("Strategy").lower()
    return "single" if world_size == 1 else name
