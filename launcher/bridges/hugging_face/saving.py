"""Saving with Hugging Face's Trainer: aside, verified by all ranks, then under its name."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..rank_notices import RankNotices
from .checkpoints import STATE, UNFINISHED, damage, publish, seal


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that counts."""

    path: Path
    size_bytes: int
    """0 on other ranks than the coordinator."""
    seconds: float


class TrainerSaving:
    """Wraps one Trainer's `_save_checkpoint`.

    Args:
        trainer: Hugging Face's.
        rank: this one.
        facts: returns what the seal says about the state.
        rotate: deletes what `save_total_limit` does not keep; gets the folder and the Trainer.
        write_more: each writes what this rank keeps beside Trainer's; gets the folder.
    """

    def __init__(
        self,
        trainer: Any,
        rank: RankNotices,
        facts: Callable[[], Mapping[str, Any]],
        *,
        rotate: Callable[[Path, Any], None],
        write_more: Sequence[Callable[[Path], None]] = (),
    ) -> None:
        self._trainer = trainer
        self._rank = rank
        self._facts = facts
        self._rotate = rotate
        self._write = trainer._save_checkpoint
        self._write_more = write_more
        self._output_dir = trainer._get_output_dir

    def save(self, model: Any, trial: Any) -> Saved:
        """Save; from its return on the checkpoint counts. Called on every rank.

        Raises:
            OSError: on every rank, where one could not write its part; nothing has changed then.
        """
        began_s = time.monotonic()
        trainer, step = self._trainer, int(self._trainer.state.global_step)
        output = Path(self._output_dir(trial))
        aside = output / UNFINISHED
        name = f"checkpoint-{step}"
        uploads: list[str] = []

        def write() -> None:
            self._write(model, trial)
            for write_one in self._write_more:
                write_one(aside / name)

        with self._aside(aside, uploads):
            error = self._attempt(write)
        self._agree(error, f"checkpoint-{step} could not be written")
        size, error = 0, None
        if self._publishes(aside / name):
            try:
                size = self._publish(aside / name, output / name, step)
            except OSError as failed:
                error = failed
        self._agree(error, f"checkpoint-{step} could not be completed")
        self._name_best(output)
        if trainer.args.should_save:
            self._rotate(output, trainer)
        for _ in uploads:
            trainer._push_from_checkpoint(str(output / name))
        return Saved(path=output / name, size_bytes=size, seconds=time.monotonic() - began_s)

    def clear(self, trial: Any = None) -> None:
        """Remove what an earlier start has left unfinished. Called on the coordinator only."""
        shutil.rmtree(Path(self._output_dir(trial)) / UNFINISHED, ignore_errors=True)

    def newest(self, output: Path) -> int | None:
        """Return the step of the checkpoint of now, where it is complete; None: it is not."""
        step = int(self._trainer.state.global_step)
        return step if damage(output / f"checkpoint-{step}") is None else None

    @contextmanager
    def _aside(self, folder: Path, uploads: list[str]) -> Iterator[None]:
        """Let Trainer write into another folder, and note what it would upload from there."""
        trainer = self._trainer
        trainer._get_output_dir = lambda trial=None: str(folder)
        push = trainer.__dict__.get("_push_from_checkpoint")
        trainer._push_from_checkpoint = uploads.append
        try:
            yield
        finally:
            trainer._get_output_dir = self._output_dir
            del trainer._push_from_checkpoint
            if push is not None:
                trainer._push_from_checkpoint = push

    def _attempt(self, write: Callable[[], object]) -> Exception | None:
        try:
            write()
        except Exception as error:  # another rank waits for this one's word
            # Now: the others may be in a collective of Trainer's, which this one will not come to.
            rank = self._rank.environment.rank
            sentence = (
                f"relaunch: warning: rank {rank} could not write its part of a checkpoint: {error}"
            )
            print(sentence, file=sys.stderr, flush=True)
            return error
        return None

    def _agree(self, error: Exception | None, what: str) -> None:
        """Return where every rank has done it.

        Raises:
            OSError: on every rank, with the same words, where one has not.
        """
        ours = None if error is None else f"{type(error).__name__}: {error}"
        for rank, text in enumerate(self._rank.agreement().texts(ours)):
            if text is not None:
                raise OSError(f"{what} by rank {rank}: {text}") from error

    def _publishes(self, folder: Path) -> bool:
        """Whether this rank completes the folder: rank 0, and one a node where each has its own."""
        if self._rank.is_coordinator:
            return True
        is_alone = bool(getattr(self._trainer.args, "save_on_each_node", False))
        return is_alone and self._rank.environment.local_rank == 0 and folder.is_dir()

    def _publish(self, folder: Path, final: Path, step: int) -> int:
        trainer = self._trainer
        if trainer.state.best_global_step == step:
            trainer.state.best_model_checkpoint = str(final)
            trainer.state.save_to_json(os.path.join(folder, STATE))
        size = seal(folder, step, self._facts())
        publish(folder, final)
        return size

    def _name_best(self, output: Path) -> None:
        state = self._trainer.state
        if state.best_global_step:
            best = output / f"checkpoint-{state.best_global_step}"
            if best.is_dir():
                state.best_model_checkpoint = str(best)
