"""Reading batches by index lists: what waits for loader workers, and goes on when they die."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Sampler

from .. import torch_internals
from ..errors import DataNotReady, StrategyError
from .worker_death import (
    Death,
    WorkerEnd,
    batches_of,
    complaint,
    is_same_batch,
    warning,
)

_LOOK_S = 0.1
"""How often whoever waits for data looks at other things."""
_GRACE_S = 1.0
"""How long a worker may take to end by itself."""


class MapDataset(Protocol):
    """What a data set must offer: a length and samples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Batches(Iterator[Any]):
    """The collated batches of index lists, in order.

    A worker that dies is replaced once: what it had in hand is read again, so that nothing is left
    out and nothing comes twice.
    """

    def __init__(
        self,
        dataset: MapDataset,
        lists: Iterator[list[int]],
        *,
        workers: int,
        while_waiting: Callable[[], bool],
        has_notice: Callable[[], bool],
        warn: Callable[[str], None],
    ) -> None:
        """Start the workers.

        Args:
            dataset: Where the samples are.
            lists: The indices of each batch; read a few batches ahead.
            workers: How many processes read; 0: this one does.
            while_waiting: Asked about every 0.1 s while the workers keep this process waiting, and
                before each sample that this process reads by itself; True: stop waiting.
            has_notice: Whether the run is about to leave, so that data which cannot be read (for
                a program of the data set's that the same signal has ended) need not fail it.
            warn: Is told of a worker that died.
        """
        self._dataset = dataset if workers else _Interruptible.of(dataset, while_waiting)
        self._feed = _Feed(lists)
        self._workers = workers
        self._while_waiting = while_waiting
        self._has_notice = has_notice
        self._warn = warn
        self._delivered = 0
        self._opened_at = 0
        self._death: Death | None = None
        self._is_over = False
        self._iterator: Any = None
        self._is_stale = False
        self._open()

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            DataNotReady: `while_waiting` said True, or `has_notice` where the data cannot be read;
                next() can be called again.
            StrategyError: Workers died twice at one batch.
            Exception: What the data set raised; next() then goes on behind that batch.
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
            return batch
        raise StopIteration

    def close(self) -> None:
        """End the workers; one that takes longer than about a second is killed."""
        self._is_over = True
        self._drop()

    def _open(self) -> None:
        # Its own generator: DataLoader would otherwise draw a seed from torch's global stream and
        # shift every random number of the user's.
        loader: DataLoader[Any] = DataLoader(
            self._dataset,  # type: ignore[arg-type]
            batch_sampler=self._feed,
            num_workers=self._workers,
            generator=torch.Generator().manual_seed(0),
            pin_memory=torch.cuda.is_available(),
            timeout=_LOOK_S if self._workers else 0,
        )
        self._opened_at = self._delivered
        self._is_stale = False
        self._iterator = iter(loader)
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
            ending = connection.wait([process.sentinel for process in processes], _GRACE_S)
            for process in processes:
                if process.sentinel in ending:
                    process.join(_GRACE_S)
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
        if self._has_notice():  # what the owner was told of may be what ended the worker
            raise DataNotReady from error
        if not is_same_batch(before, death):
            self._warn(warning(death))
            return
        assert before is not None
        suspects = sorted(set(before.in_hand) & set(death.in_hand)) or death.in_hand
        suspect = self._feed.under_way[suspects[0] - self._delivered] if suspects else []
        self._is_over = True
        raise StrategyError(complaint(death, suspect)) from (
            None if isinstance(error, _WorkersLost) else error
        )

    def _drop(self, grace_s: float = _GRACE_S) -> None:
        iterator, self._iterator = self._iterator, None
        if iterator is not None and self._workers:
            _end_workers(iterator, grace_s)


class _Interruptible:
    """A data set that this process reads by itself, and may stop reading between two samples."""

    def __init__(self, dataset: MapDataset, while_waiting: Callable[[], bool]) -> None:
        self._dataset = dataset
        self._while_waiting = while_waiting

    @classmethod
    def of(cls, dataset: MapDataset, while_waiting: Callable[[], bool]) -> MapDataset:
        """Wrap a data set, unless it reads whole batches at once, as torch lets it."""
        return dataset if hasattr(dataset, "__getitems__") else cls(dataset, while_waiting)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int, /) -> Any:
        if self._while_waiting():
            raise DataNotReady
        return self._dataset[index]


class _WorkersLost(Exception):
    """A worker is dead, or what connects it with this process is."""


class _Feed(Sampler[list[int]]):
    """A batch sampler that remembers what it has given out until that has been read."""

    def __init__(self, lists: Iterator[list[int]]) -> None:
        self._lists = lists
        self._is_given_out = False
        self.under_way: deque[list[int]] = deque()

    @property
    def is_read(self) -> bool:
        """Whether all there is has been read."""
        return self._is_given_out and not self.under_way

    def __iter__(self) -> Iterator[list[int]]:
        yield from tuple(self.under_way)
        for indices in self._lists:
            self.under_way.append(indices)
            yield indices
        self._is_given_out = True


def _end_workers(iterator: object, grace_s: float) -> None:
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
    ending.join(grace_s or _GRACE_S)
    if ending.is_alive():
        for worker in workers:
            worker.kill()
        ending.join(_GRACE_S)


def no_interruption() -> bool:
    """Never stop waiting for data."""
    return False


def warn_by_python(sentence: str) -> None:
    """Warn as Python does."""
    warnings.warn(sentence, RuntimeWarning, stacklevel=2)
