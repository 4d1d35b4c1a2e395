"""Where a Trainer is in its data, beyond the number of its step.

Trainer finds its place by counting steps, and draws the order of an epoch anew. That is right where
the order follows from the epoch's number. Here the rest is kept too: what the order was drawn from,
what the batch that is read ahead was drawn from, and in which pass of a stream without a length it
is. Each rank has a file of its own in a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import has_length

from strategies.data.streams.state_text import from_text, to_text

from ...contract.files.small_file import write_json
from ...training.own_loop.random_state import random_state, set_random_state

_FILE = "relaunch_rank{}.json"
_READS_FOR_ALL = "DataLoaderDispatcher"
"""accelerate's, with which rank 0 reads the batches of all ranks."""
_INSIDE = ("base_dataloader", "batch_sampler", "sampler")


class DataPlace:
    """Of one Trainer on one rank. No collective.

    Args:
        trainer: Hugging Face's.
        rank: this one.
    """

    def __init__(self, trainer: Any, rank: int) -> None:
        self._trainer = trainer
        self._rank = rank
        self._device = trainer.args.device
        self.load: Callable[[], None]
        """Puts random numbers to where they were after the step of the checkpoint."""
        self._saved: dict[str, Any] | None
        self._epochs_before: int
        """Passes of a stream that earlier starts have done: Trainer counts from 0 again."""
        self._has_all = False
        self.begin()
        self._watched: _Watched | None = None
        self._generators: list[torch.Generator] = []
        self._epoch = self._begun_at = 0
        self._begin: Any = None

    def begin(self) -> None:
        """Begin a training anew; `train` may be called several times."""
        self._saved, self._epochs_before = None, 0
        self.load = lambda: None

    def resume(self, checkpoint: Path, *, same_ranks: bool) -> None:
        """Take what this rank has kept in a checkpoint; on other ranks than before what rank 0 has.

        Every rank draws the same order, so that of rank 0 is everybody's.
        """
        load = self._trainer._load_rng_state
        self.load = lambda: load(str(checkpoint))
        path = checkpoint / _FILE.format(self._rank if same_ranks else 0)
        if path.is_file():
            self._saved = from_text(json.loads(path.read_bytes()))
            if self._saved["micro_step"] is not None:
                self._trainer._step = self._saved["micro_step"]
        self._has_all = same_ranks

    def write(self, folder: Path) -> None:
        """Write this rank's file into a checkpoint.

        Raises:
            OSError: from the disk.
        """
        kept = {
            "epoch": self._epoch,
            "begun_at": self._begun_at,
            "begin": self._begin,
            "newest": None if self._watched is None else self._watched.before_newest,
            "generators": [one.get_state() for one in self._generators],
            "micro_step": getattr(self._trainer, "_step", None),
        }
        text: Any = to_text(kept, "a Trainer's place")
        write_json(folder / _FILE.format(self._rank), text)

    def open(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `Trainer._run_epoch` as they are to be."""
        loader, step = asked["train_dataloader"], int(self._trainer.state.global_step)
        self._generators = generators_of(loader)
        self._watched = _watched(loader, self._device)
        saved, self._saved = self._saved, None
        is_resumed = asked["epoch"] == asked["epochs_trained"] and asked["resume_from_checkpoint"]
        accumulated = int(self._trainer.args.gradient_accumulation_steps)
        if is_resumed and saved is not None and not has_length(loader):
            self._epochs_before = saved["epoch"]
            done = (step - saved["begun_at"]) * accumulated
            asked = {**asked, "steps_trained_in_current_epoch": done}
        for name in ("epoch", "epochs_trained"):
            asked = {**asked, name: asked[name] + self._epochs_before}
        self._epoch, self._begun_at = asked["epoch"], step
        if is_resumed:
            done = asked["steps_trained_in_current_epoch"]
            self._begun_at = step - done // accumulated
            self._return_to(loader, saved, done)
        self._begin = random_state(self._device, self._generators)
        return asked

    def _return_to(self, loader: Any, saved: dict[str, Any] | None, done: int) -> None:
        """Put back what the order is drawn from, and arrange for the random numbers after that.

        Args:
            loader: of the epoch.
            saved: what a checkpoint has kept; None: nothing.
            done: batches of this epoch.
        """
        trainer, device = self._trainer, self._device
        _set_epoch(loader, self._epoch)
        if saved is not None and not done:
            for one, state in zip(self._generators, saved["generators"], strict=False):
                one.set_state(state)
        if not done:
            self.load()
            trainer._load_rng_state = lambda _: None
            return
        trainer._load_rng_state = lambda _: self.load()  # called when the first batches are read
        if saved is None or saved["epoch"] != self._epoch:
            return
        set_random_state(saved["begin"], device, self._generators)
        if self._has_all and self._watched is not None and saved["newest"] is not None:
            self._watched.rewind(done, saved["newest"], self.load)
            trainer._load_rng_state = lambda _: None


class _Watched:
    """Stands in a loader for its sampler of batches; knows the random numbers before each read.

    accelerate reads a batch ahead, so what was drawn for it, such as a mask or a crop, is drawn
    before the step that is saved has ended.
    """

    def __init__(self, sampler: Any, device: torch.device) -> None:
        self._sampler = sampler
        self._device = device
        self.before_newest: Any = None
        self._rewound: tuple[int, Any, Callable[[], None]] | None = None

    def rewind(self, number: int, state: Any, load: Callable[[], None]) -> None:
        """Let the next pass read a batch as it was read before, and call `load` after that."""
        self._rewound = number, state, load

    def __iter__(self) -> Iterator[Any]:
        rewound, self._rewound = self._rewound, None
        first, state, load = rewound or (0, None, lambda: None)
        is_loaded = False
        for number, batch in enumerate(self._sampler):
            if number < first:
                yield batch
                continue
            if number == first and state is not None:
                set_random_state(state, self._device)
            elif number == first + 1:
                load()
                is_loaded = True
            self.before_newest = random_state(self._device)
            yield batch
        if not is_loaded:
            load()

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)


def _watched(loader: Any, device: torch.device) -> _Watched | None:
    """Return what watches over the reads of a loader; None: they are not this process's."""
    inside = getattr(loader, "base_dataloader", loader)
    sampler = getattr(inside, "batch_sampler", None)
    if isinstance(sampler, _Watched):
        return sampler
    is_elsewhere = getattr(inside, "num_workers", 1) > 0 or type(loader).__name__ == _READS_FOR_ALL
    if sampler is None or is_elsewhere:
        return None
    vars(inside)["batch_sampler"] = new = _Watched(sampler, device)  # it refuses to have it set
    return new


def _set_epoch(loader: Any, epoch: int) -> None:
    """Tell the samplers that Trainer tells; in a resumed epoch it reaches only accelerate's own."""
    dealt: Any = getattr(getattr(loader, "batch_sampler", None), "batch_sampler", None)
    for one in (loader, dealt):
        if callable(getattr(one, "set_epoch", None)):
            one.set_epoch(epoch)


def generators_of(loader: Any) -> list[torch.Generator]:
    """Return the generators from which a loader's samplers draw, in an order of their own."""
    found: dict[int, torch.Generator] = {}
    for one in _parts_of(loader):
        generator = getattr(one, "generator", None)
        if isinstance(generator, torch.Generator):
            found[id(generator)] = generator
    return list(found.values())


def sampler_of(loader: Any) -> str:
    """Return the kind of the innermost sampler; "": the data has an order of its own."""
    names = [type(one).__name__ for one in _parts_of(loader)[1:]]
    return names[-1] if names else ""


def _parts_of(loader: Any) -> list[Any]:
    found: list[Any] = []
    one = loader
    while one is not None and all(one is not other for other in found):
        found.append(one)
        inner = (getattr(one, name, None) for name in _INSIDE)
        one = next((part for part in inner if part is not None), None)
    return found


def is_amid_generated(trainer: Any) -> bool:
    """Whether a Trainer of trl holds samples that it has generated for steps that are to come."""
    every = getattr(trainer.args, "steps_per_generation", None)
    if not isinstance(every, int) or getattr(trainer, "_step", None) is None:
        return False
    return bool(trainer._step % (every * int(getattr(trainer, "num_iterations", 1))))
