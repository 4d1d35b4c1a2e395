"""Streams that keep their position themselves: each rank reads its own, and its state is saved.

Such a stream can be put back where it was, and not anywhere else. So its samples follow the number
of ranks, and a resume needs the same number: what others are promised, these cannot give.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from checkpointing import JSON

from ... import torch_internals
from ...errors import ConfigError
from ..reading.moving import map_tensors
from ..reading.reading import GRACE_S, end_workers
from ..seeding import seed_for_sample, seed_of, seed_streams
from .state_text import from_text, to_text

_PASSES = 3
"""The rest of one that was over, and a whole one."""
_BUFFER = "BufferShuffled"
"""In the names of what `datasets` puts between a set and its shuffled order."""


class KeepsPosition(Protocol):
    """What such a stream must offer; a loader of batches may too."""

    def state_dict(self) -> Any:
        """Return where it is."""
        ...

    def load_state_dict(self, state: Any, /) -> None:
        """Let the next `iter()` begin there."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


def keeps_position(data: Any) -> bool:
    """Return whether `data` can report its position, and be restored to it."""
    methods = ("state_dict", "load_state_dict", "__iter__")
    return all(callable(getattr(type(data), name, None)) for name in methods)


def require_readable(
    stream: Any, *, global_batch: int, micro_batch: int, workers: int, world_size: int
) -> None:
    """Refuse what could not be read or saved so. No collective.

    Raises:
        ConfigError: naming what to change.
    """
    name = type(stream).__name__
    try:
        inspect.signature(stream.state_dict).bind()
    except TypeError:
        raise ConfigError(
            f"train is a {name} whose state_dict() needs the number of samples read. Pass a loader "
            "that counts it, such as streaming.StreamingDataLoader(data, batch_size=micro_batch)."
        ) from None
    except ValueError:
        pass  # written in C: it cannot be known
    if global_batch % (micro_batch * world_size):
        raise ConfigError(
            f"train is a {name}, which each of {world_size} ranks reads for itself: "
            f"global_batch={global_batch} must be a multiple of micro_batch={micro_batch} times "
            f"{world_size} ranks."
        )
    if isinstance(stream, DataLoader):
        if world_size > 1 and isinstance(stream.sampler, RandomSampler | SequentialSampler):
            raise ConfigError(
                f"train is a {name} whose sampler takes all samples, on each of {world_size} "
                "ranks. Pass its data set, loader.dataset, which is shared out here and resumes on "
                "any number of ranks; or give the loader a DistributedSampler."
            )
        if stream.batch_size not in (None, micro_batch):
            raise ConfigError(
                f"train is a {name} with batch_size={stream.batch_size}, and micro_batch="
                f"{micro_batch}: they are the same thing. Give the same to both."
            )
    elif workers:
        raise ConfigError(
            f"train is a {name}, whose position is known only where it is read, and workers="
            f"{workers} would read it elsewhere. Use workers=0, or pass "
            "torchdata.stateful_dataloader.StatefulDataLoader(train, batch_size=micro_batch, "
            "num_workers=...)."
        )
    to_text(stream.state_dict(), f"{name}.state_dict()")


def not_promised(stream: Any, world_size: int) -> list[str]:
    """Return what a run on such a stream does not keep, as short phrases."""
    name = type(stream).__name__
    lost = what_is_lost(stream)
    return [
        f"the same samples on another number of ranks: each of {world_size} reads its own {name}, "
        "and a resume needs the same number",
        f"no sample twice or left out at a resume: {lost}"
        if lost
        else f"no sample twice or left out at a resume: that is up to {name}.load_state_dict",
    ]


def what_is_lost(stream: Any) -> str | None:
    """Return what a stream is known to repeat or drop when it is put back; None: nothing."""
    inner, depth = getattr(stream, "dataset", stream), 0
    inner = getattr(inner, "_ex_iterable", None)
    while inner is not None and depth < 50:
        if _BUFFER in type(inner).__name__:
            size = getattr(inner, "buffer_size", None)
            return (
                f"its shuffle buffer{f' of {size} samples' if size else ''} is not part of its "
                "state: what was in it on each rank is dropped at a resume, and others come sooner"
            )
        inner, depth = getattr(inner, "ex_iterable", None), depth + 1
    return None


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """Where a stream was before the first batch of a step."""

    step: int
    place: dict[str, Any]


class OwnPosition:
    """A stream that keeps its position, as data and as a part of the checkpoints of a run.

    Args:
        stream: the script's.
        seed: the run's; with the rank it seeds what reading draws.
        rank: this one.
        world_size: how many read.
    """

    NAME = "train: position of the stream"
    """Among the objects of a checkpoint."""

    def __init__(self, stream: Any, *, seed: int, rank: int, world_size: int) -> None:
        self.stream = stream
        self.class_name = type(stream).__name__
        self.world_size = world_size
        self._rank = rank
        self._draws = f"{seed}/stream/{rank}"
        self._epoch = 0
        self._num_read = 0
        """Samples or batches that were read since the run began."""
        self._iterator: Iterator[Any] | None = None
        self._gathered: list[JSON] = []
        self._mark: _Mark | None = None
        self._first_step = 0
        self._num_batches = 0
        self._turns = 1
        self._has_begun = False

    def open(self, step: int, turns: int) -> None:
        """Be read from a step on, so many micro-batches in each. Behind what was read before."""
        self._first_step, self._turns = step, turns
        self._num_batches, self._mark, self._has_begun = 0, None, True

    @property
    def is_fresh(self) -> bool:
        """Whether nothing was read, neither now nor before a resume."""
        return self._num_read == 0

    def digest(self, count: int) -> str:
        """Return a digest of the first samples, drawn alike on all ranks, and put it back."""
        state = copy.deepcopy(self.stream.state_dict())
        seed_streams(seed_of(self._draws.rpartition("/")[0], "first"))
        found = digest_of(list(itertools.islice(iter(self.stream), count)))
        self.stream.load_state_dict(state)
        return found

    def before_batch(self) -> None:
        """Remember the place before a step's first batch: the step may be given up."""
        step, turn = divmod(self._num_batches, self._turns)
        if turn == 0 and (self._mark is None or self._mark.step != self._first_step + step):
            self._mark = _Mark(step=self._first_step + step, place=self._place())
        self._num_batches += 1

    def next_sample(self) -> Any:
        """Return the next sample, or batch of a loader, with random numbers of its own."""
        seed_for_sample(seed_of(self._draws, self._num_read))
        for _ in range(_PASSES):
            if self._iterator is None:
                self._iterator = iter(self.stream)
            try:
                sample = next(self._iterator)
            except StopIteration:
                self._iterator = None
                self._epoch += 1
                self._set_epoch()
                continue
            self._num_read += 1
            return sample
        raise ConfigError(
            f"train is a {self.class_name} that gave no sample in {_PASSES} passes. Its iter() "
            "must begin again after the end."
        )

    def draws(self, what: str) -> int:
        """Return the seed of what is done with the next micro-batch."""
        return seed_of(self._draws, what, self._num_read)

    def gather(self, step: int, all_gather: Callable[[JSON], list[JSON]]) -> None:
        """Collect the places of all ranks after `step` finished steps. Called on every rank."""
        is_given_up = self._mark is not None and self._mark.step == step
        place = self._mark.place if self._mark is not None and is_given_up else self._place()
        state = to_text(place["state"], f"{self.class_name}.state_dict()")
        self._gathered = all_gather({**place, "class": self.class_name, "state": state})

    def state(self) -> Any:
        """Return the places of all ranks, as `gather` has found them."""
        return list(self._gathered)

    def restore(self, state: Any) -> None:
        """Put the stream back where this rank was. Called on every rank.

        A run that goes back to an earlier checkpoint leaves out the data since: nothing is done.

        Raises:
            ConfigError: the checkpoint has another number of ranks or another stream.
        """
        if self._has_begun:
            return
        if len(state) != self.world_size:
            raise ConfigError(
                f"each rank reads its own {self.class_name}, and the run was saved on "
                f"{len(state)} ranks: on {self.world_size} it would read other samples, some twice "
                f"and some never. Start it with {len(state)} ranks. Data that can be read from any "
                "position (samples by index, or seek) resumes on any number."
            )
        mine = state[self._rank]
        if mine["class"] != self.class_name:
            raise ConfigError(
                f"the run was made with a {mine['class']} as its data, and train is now a "
                f"{self.class_name}. Use the same, or another --run-dir."
            )
        self._epoch, self._num_read = mine["epoch"], mine["num_read"]
        if self._epoch:
            self._set_epoch()
        self.stream.load_state_dict(from_text(mine["state"]))
        self._iterator = None

    def close(self) -> None:
        """End the processes of a loader; nothing is read any more."""
        iterator, self._iterator = self._iterator, None
        if torch_internals.worker_processes(iterator):
            torch_internals.forget_worker_deaths(iterator)
            end_workers(iterator, GRACE_S)

    def _place(self) -> dict[str, Any]:
        state = copy.deepcopy(self.stream.state_dict())
        return {"epoch": self._epoch, "num_read": self._num_read, "state": state}

    def _set_epoch(self) -> None:
        sampler, data = (getattr(self.stream, name, None) for name in ("sampler", "dataset"))
        for one in (self.stream, sampler, data):
            if callable(getattr(one, "set_epoch", None)):
                one.set_epoch(self._epoch)  # type: ignore[union-attr]


def require_same_kind(position: OwnPosition | None, is_saved: bool) -> None:
    """Refuse a checkpoint of a run whose data was of the other kind.

    Raises:
        ConfigError: naming both.
    """
    if (position is not None) == is_saved:
        return
    kinds = ("a stream that keeps its position itself", "data that is read from any position")
    then, now = kinds if is_saved else kinds[::-1]
    raise ConfigError(
        f"the run was made with {then}, and train is now {now}: where to resume is not known. Use "
        "the same data, or another --run-dir."
    )


def require_parts(position: OwnPosition, digests: list[JSON]) -> None:
    """Refuse ranks that read the same samples.

    Args:
        position: the stream.
        digests: of the first samples of each rank, in order.

    Raises:
        ConfigError: two are equal.
    """
    for rank, digest in enumerate(digests):
        first = digests.index(digest)
        if first != rank:
            raise ConfigError(
                f"the ranks {first} and {rank} read the same samples from {position.class_name}: "
                "it keeps its position itself, so each rank needs a part of its own. Split it in "
                "the script by run.ranks.rank and run.ranks.world_size; datasets has "
                "split_dataset_by_node(data, rank=..., world_size=...) for it, a loader takes "
                "DistributedSampler."
            )


def digest_of(batch: Any) -> str:
    """Return a short text that differs where batches do."""
    hashed = hashlib.blake2b(digest_size=16)

    def add(tensor: torch.Tensor) -> torch.Tensor:
        hashed.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hashed.update(flat.view(torch.uint8).numpy().tobytes())
        return torch.empty(0)

    rest = map_tensors(batch, add)
    with np.printoptions(threshold=2**31):
        hashed.update(_text(rest).encode())
    return hashed.hexdigest()


def _text(rest: Any) -> str:
    if isinstance(rest, Mapping):
        return str({str(key): _text(value) for key, value in rest.items()})
    if isinstance(rest, list | tuple):
        return str([_text(one) for one in rest])
    known = isinstance(rest, str | bytes | int | float | np.ndarray | np.generic)
    return repr(rest) if known else type(rest).__name__
