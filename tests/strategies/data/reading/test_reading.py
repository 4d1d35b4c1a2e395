"""Batches whose workers die, whose data set fails, and whose owner has other things to do."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data._utils import pin_memory

from strategies import StrategyError
from strategies.data.options import Loading
from strategies.data.reading.reading import Batches, DataNotReady, no_interruption
from strategies.data.reading.samples import IndexList

NUM_BATCHES = 12


class Numbers:
    """Samples that do something at an index: once for each mark, or always."""

    def __init__(self, at: int = -1, do: Callable[[], object] = lambda: None) -> None:
        self.at = at
        self.do = do

    def __len__(self) -> int:
        return 2 * NUM_BATCHES

    def __getitem__(self, index: int) -> int:
        if index == self.at:
            self.do()
        return index


def opened(data: Any, **changes: Any) -> Batches:
    lists = (IndexList(indices=[2 * n, 2 * n + 1], stream="0/sample/0") for n in range(NUM_BATCHES))
    names = ("workers", "collate", "worker_init", "prefetch", "persistent")
    asked = {"workers": 2} | {name: changes.pop(name) for name in names if name in changes}
    options: dict[str, Any] = {"loading": Loading(**asked), "seed": 0, "warn": print}
    options |= {"while_waiting": no_interruption, "has_notice": no_interruption}
    return Batches(data, lists, **(options | changes))


def all_of(batches: Iterator[Any]) -> list[int]:
    return [index for batch in batches for index in batch.tolist()]


EVERYTHING = list(range(2 * NUM_BATCHES))


def once(mark: Path, do: Callable[[], object]) -> Callable[[], None]:
    def only_once() -> None:
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return
        do()

    return only_once


def die_of(signum: int) -> Callable[[], None]:
    def die() -> None:
        os.kill(os.getpid(), signum)
        time.sleep(1000)

    return die


def exit_by_handler() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1000)


ENDS = {
    "SIGKILL": (die_of(signal.SIGKILL), "was ended by SIGKILL"),
    "SIGHUP": (die_of(signal.SIGHUP), "was ended by SIGHUP"),
    "its own handler": (exit_by_handler, "ended with exit code 0"),
    "os._exit": (lambda: os._exit(3), "ended with exit code 3"),
}


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.parametrize("at", [0, 7, 2 * NUM_BATCHES - 1])
def test_what_a_dead_worker_had_in_hand_is_read_again(way: str, at: int, tmp_path: Path) -> None:
    do, words = ENDS[way]
    said: list[str] = []
    batches = opened(Numbers(at, once(tmp_path / "mark", do)), warn=said.append)
    assert all_of(batches) == EVERYTHING
    (sentence,) = said
    assert sentence.startswith(f"loader worker {at // 2 % 2} (pid ")
    assert words in sentence


@pytest.mark.parametrize("way", ENDS)
def test_a_batch_that_ends_each_worker_is_named(way: str) -> None:
    do, words = ENDS[way]
    said: list[str] = []
    batches = opened(Numbers(10, do), warn=said.append)
    with pytest.raises(StrategyError, match="for the second time") as caught:
        all_of(batches)
    assert words in str(caught.value)
    assert said
    assert list(batches) == []


def test_a_death_between_two_batches_disturbs_nobody_until_data_is_missing() -> None:
    said: list[str] = []
    batches = opened(Numbers(), warn=said.append)
    seen = next(batches).tolist()
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)  # the SIGCHLD is handled in here: torch's own handler would raise
    assert seen + all_of(batches) == EVERYTHING
    assert len(said) == 1


class Long(Numbers):
    """Samples that do not fit into a pipe."""

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return str(index).zfill(2_000_000)


@pytest.mark.parametrize("is_waited_for", [False, True])
def test_a_death_in_the_middle_of_a_message(is_waited_for: bool) -> None:
    said: list[str] = []
    batches = opened(Long(), warn=said.append)
    seen = [int(text[-9:]) for text in next(batches)]
    time.sleep(0.3)  # the workers fill the pipe, and stand still amid a message
    workers = children()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP if is_waited_for else signal.SIGKILL)

    def kill() -> None:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)

    if is_waited_for:
        threading.Timer(0.5, kill).start()
    seen += [int(text[-9:]) for batch in batches for text in batch]
    assert seen == EVERYTHING
    assert len(said) == 1


def test_workers_may_die_again_at_other_batches(tmp_path: Path) -> None:
    class Mortal(Numbers):
        def __getitem__(self, index: int) -> int:
            if index in (2, 20):
                once(tmp_path / str(index), lambda: os._exit(1))()
            return index

    said: list[str] = []
    assert all_of(opened(Mortal(), warn=said.append)) == EVERYTHING
    assert len(said) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_the_owner_stops_waiting_and_goes_on_later(workers: int, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def wait() -> None:
        while not gate.exists():
            time.sleep(0.01)

    is_busy = [False]
    batches = opened(Numbers(6, wait), workers=workers, while_waiting=lambda: is_busy[0])
    seen = [index for _ in range(3) for index in next(batches).tolist()]
    is_busy[0] = True
    for _ in range(2):
        with pytest.raises(DataNotReady):
            next(batches)
    is_busy[0] = False
    gate.touch()
    assert seen + all_of(batches) == EVERYTHING


@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_data_set_raises_is_passed_on(workers: int) -> None:
    def fail() -> None:
        raise ValueError("broken sample")

    batches = opened(Numbers(4, fail), workers=workers)
    next(batches)
    next(batches)
    with pytest.raises(ValueError, match="broken sample"):
        next(batches)
    assert all_of(batches) == EVERYTHING[6:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_after_a_notice_is_not_the_end(workers: int, tmp_path: Path) -> None:
    notice = tmp_path / "notice"

    def fail() -> None:
        notice.touch()
        raise ValueError("the decoder was ended by a signal")

    is_asked = [False]
    data = Numbers(4, once(tmp_path / "mark", fail))
    batches = opened(data, workers=workers, has_notice=lambda: is_asked[0] and notice.exists())
    seen = next(batches).tolist() + next(batches).tolist()
    if workers:  # it has been read ahead: no waiting, but an error
        while not notice.exists():
            time.sleep(0.01)
    is_asked[0] = True
    with pytest.raises(DataNotReady):
        next(batches)
    is_asked[0] = False
    assert seen + all_of(batches) == EVERYTHING


def test_deaths_after_a_notice_are_not_the_end(tmp_path: Path) -> None:
    is_told = [True]
    data = Numbers(4, lambda: None if (tmp_path / "well").exists() else os._exit(1))
    batches = opened(data, has_notice=lambda: is_told[0])
    seen: list[int] = []
    for _ in range(3):
        with pytest.raises(DataNotReady):
            read_on(batches, seen)
    (tmp_path / "well").touch()
    is_told[0] = False
    assert seen + all_of(batches) == EVERYTHING


def read_on(batches: Batches, seen: list[int]) -> None:
    for batch in batches:
        seen += batch.tolist()


@pytest.fixture
def pins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let batches go through torch's thread that pins them, on a machine without an accelerator."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    monkeypatch.setattr(torch.cpu, "manual_seed", lambda seed: None, raising=False)
    monkeypatch.setattr(pin_memory, "pin_memory", lambda data, device=None: data)


@pytest.mark.usefixtures("pins")
def test_with_a_thread_that_pins_batches(tmp_path: Path) -> None:
    is_told = [False]
    said: list[str] = []
    end = once(tmp_path / "mark", die_of(signal.SIGKILL))
    slow = once(tmp_path / "slow", lambda: time.sleep(1.5))
    data = Numbers(8, lambda: (slow(), end()))
    batches = opened(data, while_waiting=lambda: is_told[0], warn=said.append)
    assert hasattr(batches._iterator, "_pin_memory_thread")
    seen = [index for _ in range(4) for index in next(batches).tolist()]
    is_told[0] = True
    with pytest.raises(DataNotReady):
        next(batches)
    is_told[0] = False
    assert seen + all_of(batches) == EVERYTHING
    assert len(said) == 1
    batches.close()


@pytest.mark.parametrize("is_stuck", [False, True])
def test_close_leaves_no_worker(is_stuck: bool) -> None:
    def hang() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)

    before = children()
    batches = opened(Numbers(6, hang if is_stuck else lambda: None))
    next(batches)
    assert len(children() - before) == 2
    batches.close()
    assert children() == before
    assert list(batches) == []


def children() -> set[int]:
    """This process's living children."""
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        for word in path.read_text().split():
            try:
                stat = Path(f"/proc/{word}/stat").read_text()
            except OSError:
                continue
            if stat.rpartition(")")[2].split()[0] != "Z":
                found.add(int(word))
    return found


def test_a_process_that_reads_by_itself_stops_between_two_samples() -> None:
    data = Numbers()
    read: list[int] = []
    data.at, data.do = 1, lambda: read.append(1)
    batches = opened(data, workers=0, while_waiting=lambda: len(read) == 1)
    seen = next(batches).tolist()  # two samples: the second one is slow
    with pytest.raises(DataNotReady):
        next(batches)
    read.append(2)
    assert seen + all_of(batches) == EVERYTHING
