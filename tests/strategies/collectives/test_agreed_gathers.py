"""Ranks that gather unlike weights in a forward are refused by what each of them does."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from strategies import ConfigError
from strategies.collectives import agreed_gathers
from strategies.collectives.agreed_gathers import AgreedGathers


def outcomes(*ranks: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    """Return what becomes of each rank, by the turns of each forward of each of its batches."""
    store = HashStore()
    found = ["done"] * len(ranks)

    def run(rank: int) -> None:
        agreed = AgreedGathers(store, rank, len(ranks), "zero3")
        try:
            for batch in ranks[rank]:
                agreed.begin_batch()
                for forward in batch:
                    agreed.call()
                    for turn in forward:
                        agreed.take(turn)
                    agreed.returned()
                agreed.end_batch()
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
    assert outcomes(*[[[train], [test, test], [train], [test]]] * 3) == ["done"] * 3


def test_ranks_that_do_unlike_things_are_both_told() -> None:
    one, other = outcomes([[["calls a", "reads b.weight"]]], [[["calls a", "calls b"]]])
    assert one.startswith("rank 0 reads b.weight in the model's forward, and rank 1 calls b. ")
    assert other.startswith("rank 1 calls b in the model's forward, and rank 0 reads b.weight. ")
    assert "multiply its output by 0" in one


def test_one_that_does_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreed_gathers, "AT_LEAST_S", 1.0)
    usual = ["calls a", "calls b", "calls c"]
    told, quiet = outcomes([[usual], [["calls a", "calls c"]]], [[usual], [usual]])
    assert told.startswith(
        "rank 0 calls c in the model's forward, where it calls b in those before, and rank 1 has "
        "not done so within 1 s."
    )
    assert quiet == "done"


def test_ways_that_all_have_taken_before_are_asked_about_again() -> None:
    short, long = ["calls a"], ["calls a", "calls a"]
    one, other = outcomes([[short], [long], [short]], [[short], [long], [long]])
    assert one.startswith("rank 0 returns in the model's forward, and rank 1 calls a. ")
    assert other.startswith("rank 1 calls a in the model's forward, and rank 0 returns. ")


def test_a_rank_that_calls_the_model_more_often_for_a_batch() -> None:
    once, twice = [["calls a"]], [["calls a"], ["calls a"]]
    one, other = outcomes([once, twice], [once, once])
    assert one.startswith(
        "rank 0 calls the model for this batch, where it calls the model no more in "
        "those before, and rank 1 has not done so within "
    )
    assert other == "done"  # it is in its backward, and ended from outside
    one, other = outcomes([once, twice, once], [once, twice, twice])
    assert one.startswith("rank 0 calls the model no more for this batch, and rank 1 calls ")
    assert other.startswith(
        "rank 1 calls the model for this batch, and rank 0 calls the model no more"
    )


def test_a_loss_that_leaves_a_call_out_on_one_rank() -> None:
    """Its backward gathers less."""
    store = HashStore()
    told: list[str] = []

    def run(rank: int) -> None:
        agreed = AgreedGathers(store, rank, 2, "fsdp")
        agreed.begin_batch()
        agreed.call()
        agreed.returned()
        try:
            agreed.end_batch(num_calls=lambda: 2 + rank)
        except ConfigError as error:
            told.append(str(error))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(told) == 2
    assert "its loss depends on 2 calls of layers" in told[0]
    assert "its loss depends on 3 calls of layers" in told[0]


def test_ever_new_ways_are_asked_about_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreed_gathers, "_MOST_TURNS", 3)
    ways = [[[f"calls {n}", "calls a"]] for n in range(4)]
    assert outcomes(ways, ways) == ["done"] * 2
    one, other = outcomes([*ways, [["calls 3"]]], [*ways, [["calls 2"]]])
    assert one.startswith("rank 0 calls 3 in the model's forward")
    assert other.startswith("rank 1 calls 2 in the model's forward")


def test_one_that_is_not_in_this_forward_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its data may take longer than any forward does."""
    monkeypatch.setattr(agreed_gathers, "AT_LEAST_S", 1.0)
    store, clock = HashStore(), [0.0]
    late = AgreedGathers(store, 1, 2, "zero3")

    def sleep(seconds: float) -> None:
        clock[0] += 10.0
        if clock[0] > 600.0:
            late.call()
            threading.Thread(target=late.take, args=("calls a",), daemon=True).start()
            while store.add("1:calls a", 0) < 2:
                pass

    agreed = AgreedGathers(store, 0, 2, "zero3", now=lambda: clock[0], sleep=sleep)
    agreed.call()
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
    agreed = AgreedGathers(store, 0, 2, "zero3")
    for _ in range(3):
        agreed.call()
        agreed.take("calls a")
    assert calls == ["place/0", "1/0", "1:calls a", "place/0", "place/0"]


def test_a_call_that_gathers_nothing_is_nobodys_matter() -> None:
    """Such as a getter that one rank alone calls, to print what it returns."""
    usual: list[str] = ["calls a"]
    assert outcomes([[usual, []], [usual]], [[usual], [usual]]) == ["done", "done"]


class LateStore(HashStore):
    """Rank 1 says the same and goes on after rank 0 has looked for its words."""

    def check(self, keys: list[str]) -> bool:
        is_there = bool(super().check(keys))
        if keys == ["1/1"] and not is_there:
            self.set("1/1", "calls a")
            self.add("1:calls a", 1)
            self.set("place/1", "0 9")
        return is_there


def test_a_rank_that_says_the_same_while_it_is_looked_for() -> None:
    seconds = iter(range(100))
    agreed = AgreedGathers(
        LateStore(), 0, 2, "fsdp", now=lambda: float(next(seconds)), sleep=lambda _: None
    )
    agreed.call()
    agreed.take("calls a")  # else it would be refused: rank 1 is ahead


def test_an_evaluation_does_not_make_the_training_ask_again() -> None:
    store, numbers = HashStore(), dict[int, list[int]]()

    def run(rank: int) -> None:
        agreed, numbers[rank] = AgreedGathers(store, rank, 2, "fsdp"), []
        for trains in (True, False, True, True, False, True):
            agreed.begin_batch(trains=trains)
            agreed.call()
            agreed.take("calls a")
            agreed.returned()
            agreed.end_batch((lambda: 1) if trains else None)
            numbers[rank].append(agreed._num_agreed)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # The call, its turn, its end and the batch's: once in training, once in an evaluation.
    assert numbers[0] == numbers[1] == [4, 8, 8, 8, 8, 8]
