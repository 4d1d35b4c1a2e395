"""Reading batches by index lists, from loader workers that may die."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from ... import torch_internals
from ...errors import ConfigError, DataNotReady, StrategyError
from ..options import Loading
from ..seeding import seed_of
from ..workers.worker_death import (
    Death,
    WorkerEnd,
    batches_of,
    complaint,
    is_same_batch,
    warning,
)
from .samples import IndexList, MapDataset, SampleReader, WorkerStart, as_read
from .stacking import Unstackable

_LOOK_S = 0.1
"""How often a wait for data checks other things."""
GRACE_S = 1.0
"""How long a worker may take to end by itself."""


def no_interruption() -> bool:
    """Never stop waiting for data."""
    return False


def warn_by_python(sentence: str) -> None:
    """Warn as Python does."""
    warnings.warn(sentence, RuntimeWarning, stacklevel=2)


class Batches(Iterator[Any]):
    """The collated batches of index lists, in order.

    A worker that dies is replaced once: what it had in hand is read again, so that nothing is left
    out and nothing comes twice.
    """

    def __init__(
        self,
        dataset: MapDataset,
        lists: Iterator[IndexList],
        *,
        loading: Loading,
        seed: int,
        while_waiting: Callable[[], bool] = no_interruption,
        has_notice: Callable[[], bool] = no_interruption,
        warn: Callable[[str], None] = warn_by_python,
    ) -> None:
        """Start the workers.

        Args:
            dataset: Where the samples are.
            lists: The indices of each batch; read a few batches ahead.
            loading: How they are read.
            seed: Of what workers draw besides samples: at their start.
            while_waiting: Asked about every 0.1 s while the workers keep this process waiting, and
                before each sample that this process reads by itself; True: stop waiting.
            has_notice: Whether the run is about to leave, so that data which cannot be read (for
                a program of the data set's that the same signal has ended) need not fail it.
            warn: Called when a worker died.
        """
        self._reader = SampleReader(
            dataset, loading.collate, None if loading.workers else while_waiting
        )
        self._feed = _Feed(lists)
        self._loading = loading
        self._workers = loading.workers
        self._seed = seed
        self._while_waiting = while_waiting
        self._has_notice = has_notice
        self._warn = warn
        self._delivered = 0
        self._opened_at = 0
        self._death: Death | None = None
        self._is_over = False
        self._iterator: Any = None
        self._is_stale = False
        self._loader: DataLoader[Any] | None = None
        self._open()

    def reads(self, dataset: MapDataset, loading: Loading) -> bool:
        """Return whether this is how `dataset` would be read."""
        return self._reader.dataset is dataset and self._loading == loading

    @property
    def is_read(self) -> bool:
        """Whether all there is has been delivered; with `persistent` workers wait for more then."""
        return self._feed.is_read and not self._is_stale and self._iterator is not None

    def read_again(self, lists: Iterator[IndexList]) -> None:
        """Continue with other index lists once all is read; new workers if one has died."""
        assert self.is_read
        self._feed.refill(lists)
        self._death = None
        workers = torch_internals.worker_processes(self._iterator)
        if all(worker.is_alive() for worker in workers) and torch_internals.resume_workers(
            self._loader, self._iterator, bound_s=GRACE_S
        ):
            self._opened_at = self._delivered
        else:
            self._reopen()

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            DataNotReady: `while_waiting` said True, or `has_notice` where the data cannot be read;
                next() can be called again.
            ConfigError: Its samples cannot be made into a batch without a function of the script's.
            StrategyError: Workers died twice at one batch.
            Exception: What the data set raised; next() then continues behind that batch.
        """
        while not self._is_over:
            if self._iterator is None or self._is_stale:
                self._reopen()
            try:
                batch = self._read()
            except StopIteration:
                self._is_over, self._iterator = True, None
                raise
            except DataNotReady:
                self._is_stale = not self._workers  # its index list is spent
                raise
            except Exception as error:
                if (death := self._look_for_death(error)) is not None:
                    self._bury(death, error)
                    continue
                self._is_stale = True
                if self._has_notice():
                    raise DataNotReady from error
                self._count_delivered()
                raise
            self._count_delivered()
            if isinstance(batch, Unstackable):
                raise ConfigError(batch.sentence)
            return batch
        raise StopIteration

    def close(self) -> None:
        """End the workers; one that takes longer than about a second is killed."""
        self._is_over = True
        self._drop()

    def _open(self) -> None:
        # Its own generator: DataLoader would otherwise draw a seed from torch's global stream and
        # shift every random number of the user's.
        self._loader = DataLoader(
            self._reader,  # type: ignore[arg-type]
            batch_sampler=self._feed,  # type: ignore[arg-type]
            collate_fn=as_read,
            num_workers=self._workers,
            worker_init_fn=WorkerStart(self._loading.worker_init) if self._workers else None,
            prefetch_factor=self._loading.prefetch,
            generator=torch.Generator().manual_seed(seed_of(self._seed, self._delivered)),
            persistent_workers=self._loading.persistent,
            pin_memory=torch.cuda.is_available(),
            timeout=_LOOK_S if self._workers else 0,
        )
        self._opened_at = self._delivered
        self._is_stale = False
        self._iterator = iter(self._loader)
        # A death is looked for in next(): nowhere else could the rank do anything about it.
        torch_internals.forget_worker_deaths(self._iterator)

    def _reopen(self) -> None:
        self._drop()
        self._open()

    def _read(self) -> Any:
        if self._workers == 0:
            return next(self._iterator)
        processes = torch_internals.worker_processes(self._iterator)
        pids = [process.pid for process in processes if process.pid is not None]
        with torch_internals.watch_workers(id(self), pids):
            # torch notices at once what dies from now on, and never what has died before.
            if not all(process.is_alive() for process in processes):
                raise _WorkersLost
            while True:
                try:
                    return next(self._iterator)
                except RuntimeError as error:
                    if not torch_internals.is_poll_timeout(error):
                        raise
                if torch_internals.pin_thread_is_dead(self._iterator):
                    raise _WorkersLost
                if self._while_waiting():
                    raise DataNotReady

    def _count_delivered(self) -> None:
        self._feed.under_way.popleft()
        self._delivered += 1

    def _look_for_death(self, error: Exception) -> Death | None:
        """Return which workers died, where that is the cause of an error."""
        processes = torch_internals.worker_processes(self._iterator)
        is_broken = isinstance(error, (_WorkersLost, ConnectionError, EOFError, FileNotFoundError))
        if is_broken and processes:
            # The end of a process is seen a moment later than that of its connections.
            ending = connection.wait([process.sentinel for process in processes], GRACE_S)
            for process in processes:
                if process.sentinel in ending:
                    process.join(GRACE_S)
        ends = tuple(
            WorkerEnd(number=number, pid=process.pid or 0, exit_code=process.exitcode)
            for number, process in enumerate(processes)
            if not process.is_alive()
        )
        if not ends and not isinstance(error, _WorkersLost):
            return None
        return Death(
            ends=ends,
            delivered=self._delivered,
            in_hand=batches_of(
                [end.number for end in ends],
                num_workers=self._workers,
                opened_at=self._opened_at,
                delivered=self._delivered,
                num_drawn=len(self._feed.under_way),
            ),
        )

    def _bury(self, death: Death, error: Exception) -> None:
        """Drop the loader; complain where that does not help."""
        before, self._death = self._death, death
        # What they have written may be torn: the others could wait for each other for ever.
        self._drop(grace_s=0.0)
        if self._feed.is_read:
            self._is_over = True
            return
        if self._has_notice():  # the owner's notice may be what ended the worker
            raise DataNotReady from error
        if not is_same_batch(before, death):
            self._warn(warning(death))
            return
        assert before is not None
        suspects = sorted(set(before.in_hand) & set(death.in_hand)) or death.in_hand
        under_way = self._feed.under_way
        suspect = under_way[suspects[0] - self._delivered].indices if suspects else []
        self._is_over = True
        raise StrategyError(complaint(death, suspect)) from (
            None if isinstance(error, _WorkersLost) else error
        )

    def _drop(self, grace_s: float = GRACE_S) -> None:
        iterator, self._iterator, self._loader = self._iterator, None, None
        if iterator is not None and self._workers:
            end_workers(iterator, grace_s)


class _WorkersLost(Exception):
    """A worker is dead, or what connects it with this process is."""


class _Feed(Sampler[IndexList]):
    """A batch sampler that remembers what it has given out until that has been read."""

    def __init__(self, lists: Iterator[IndexList]) -> None:
        self._lists = lists
        self._is_given_out = False
        self.under_way: deque[IndexList] = deque()

    def refill(self, lists: Iterator[IndexList]) -> None:
        """Take others, to be given out when it is iterated over again."""
        self._lists, self._is_given_out = lists, False

    @property
    def is_read(self) -> bool:
        """Whether all there is has been read."""
        return self._is_given_out and not self.under_way

    def __iter__(self) -> Iterator[IndexList]:
        yield from tuple(self.under_way)
        for asked in self._lists:
            self.under_way.append(asked)
            yield asked
        self._is_given_out = True


def end_workers(iterator: object, grace_s: float) -> None:
    """End a loader's workers within about a second after the grace.

    In a thread: torch waits five seconds for each worker, and for ever for the thread that pins,
    where a worker died while it was writing.
    """
    ending = threading.Thread(target=torch_internals.shut_down, args=(iterator,), daemon=True)
    workers = torch_internals.worker_processes(iterator)
    if not grace_s:
        for worker in workers:
            worker.kill()
    ending.start()
    ending.join(grace_s or GRACE_S)
    if ending.is_alive():
        for worker in workers:
            worker.kill()
        ending.join(GRACE_S)
