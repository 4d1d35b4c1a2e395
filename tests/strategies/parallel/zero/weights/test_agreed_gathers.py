"""Ranks that gather unlike weights in a forward are refused by what each of them does."""

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined]

from strategies import ConfigError
from strategies.parallel.zero.weights import agreed_gathers
from strategies.parallel.zero.weights.agreed_gathers import AgreedGathers, agree_on_gathers


def outcomes(*ranks: Sequence[Sequence[str]]) -> list[str]:
    """Return what becomes of each rank, whose forwards take these turns."""
    store = HashStore()
    found = ["done"] * len(ranks)

    def run(rank: int) -> None:
        agreed = AgreedGathers(store, rank, len(ranks))
        try:
            for forward in ranks[rank]:
                agreed.begin()
                for turn in forward:
                    agreed.take(turn)
        except ConfigError as error:
            found[rank] = str(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_ranks_that_do_the_same_go_on() -> None:
    train, test = ["calls a", "reads b"], ["calls a", "calls c"]
    assert outcomes(*[[train, test, train, test]] * 3) == ["done"] * 3


def test_ranks_that_do_unlike_things_are_both_told() -> None:
    one, other = outcomes([["calls a", "reads b.weight"]], [["calls a", "calls b"]])
    assert one.startswith("rank 0 reads b.weight in the model's forward, and rank 1 calls b. ")
    assert other.startswith("rank 1 calls b in the model's forward, and rank 0 reads b.weight. ")
    assert "multiply its output by 0" in one


def test_one_that_does_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreed_gathers, "AT_LEAST_S", 1.0)
    usual = ["calls a", "calls b", "calls c"]
    told, quiet = outcomes([usual, ["calls a", "calls c"]], [usual, usual])
    assert told.startswith(
        "rank 0 calls c in the model's forward, where it calls b in those before, and rank 1 has "
        "not done so within 1 s."
    )
    assert quiet == "done"


def test_one_that_is_not_in_this_forward_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its data may take longer than any forward does."""
    monkeypatch.setattr(agreed_gathers, "AT_LEAST_S", 1.0)
    store, clock = HashStore(), [0.0]
    late = AgreedGathers(store, 1, 2)

    def sleep(seconds: float) -> None:
        clock[0] += 10.0
        if clock[0] > 600.0:
            late.begin()
            threading.Thread(target=late.take, args=("calls a",), daemon=True).start()
            while store.add("1:calls a", 0) < 2:
                pass

    agreed = AgreedGathers(store, 0, 2, now=lambda: clock[0], sleep=sleep)
    agreed.begin()
    agreed.take("calls a")
    assert clock[0] > 600.0


def test_what_was_agreed_on_is_not_asked_again() -> None:
    calls: list[str] = []

    class Counted:
        def set(self, key: str, value: str) -> None:
            calls.append(key)

        def add(self, key: str, amount: int) -> int:
            calls.append(key)
            return 2

    store: Any = Counted()
    agreed = AgreedGathers(store, 0, 2)
    for _ in range(3):
        agreed.begin()
        agreed.take("calls a")
    assert calls == ["forward/0", "1/0", "1:calls a", "forward/0", "forward/0"]


class Net(nn.Module):
    """Calls one layer, reads the weight of another, and has one that every rank has whole."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read, self.whole = (nn.Linear(2, 2, bias=False) for _ in range(3))
        for name, one in self.named_parameters():
            parameter: Any = one
            parameter.ds_persist = name.startswith("whole")
            parameter.ds_status = SimpleNamespace(name="NOT_AVAILABLE")
            parameter.all_gather = lambda *args: args

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight: Any = self.read.weight
        weight.all_gather()  # as DeepSpeed does at the read
        out: torch.Tensor = self.whole(nn.functional.linear(self.called(x), weight))
        return out


def test_calls_and_reads_of_a_forward_are_turns() -> None:
    taken: list[str] = []
    begin: Callable[[], None] = lambda: taken.append("begin")  # noqa: E731
    net: Any = Net()
    agree_on_gathers(net, SimpleNamespace(begin=begin, take=taken.append))  # type: ignore[arg-type]
    assert net.read.weight.all_gather() == ()
    net.called(torch.ones(1, 2))
    assert taken == []  # outside of a forward
    net(torch.ones(1, 2))
    assert taken == ["begin", "reads read.weight without a call of read", "calls called"]
    taken.clear()
    assert net.read.weight.all_gather([net.read.weight]) == ([net.read.weight],)
    assert taken == []
