import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from strategies.data.batches import BatchPlan, Jump, MicroBatch, assignment, consecutive


def plan(**changes: Any) -> BatchPlan:
    values: dict[str, Any] = {
        "num_samples": 47,
        "global_batch": 20,
        "micro_batch": 4,
        "epochs": 3,
        "seed": 1,
    }
    return BatchPlan(**(values | changes))


def test_an_epoch_holds_every_sample_once() -> None:
    p = plan()
    assert (p.steps_per_epoch, p.total_steps) == (3, 9)
    seen = np.concatenate([i for s in (3, 4, 5) for i in p.samples(s, p.turns(s, 0, 1))])
    assert sorted(seen.tolist()) == list(range(47))


def test_the_last_step_and_micro_batch_of_an_epoch_are_short() -> None:
    p = plan()
    assert [m.end - m.start for m in p.micro_batches(2)] == [4, 3]
    assert [p.num_samples_in(s) for s in range(4)] == [20, 20, 7, 20]


def test_position_counts_samples_over_epochs() -> None:
    p = plan()
    assert [p.position(s) for s in range(5)] == [0, 20, 40, 47, 67]
    assert [p.epoch_of(s) for s in range(5)] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 7, 9])
def test_ranks_share_the_same_micro_batches_in_equal_numbers_of_turns(world_size: int) -> None:
    p = plan()
    for step in range(3):
        turns = [p.turns(step, rank, world_size) for rank in range(world_size)]
        assert len({len(t) for t in turns}) == 1
        real = [t.micro_batch for t in itertools.chain(*turns) if not t.is_padding]
        assert sorted(real, key=lambda m: m.index) == p.micro_batches(step)


def test_padding_repeats_a_micro_batch_that_exists() -> None:
    micro_batches = [MicroBatch(index=i, start=i, end=i + 1) for i in range(2)]
    turns = [assignment(micro_batches, rank, 5) for rank in range(5)]
    assert [t[0].is_padding for t in turns] == [False, False, True, True, True]
    assert all(t[0].micro_batch in micro_batches for t in turns)


def test_an_evaluation_set_is_cut_in_its_own_order() -> None:
    assert [(m.start, m.end) for m in consecutive(10, 4)] == [(0, 4), (4, 8), (8, 10)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"global_batch": 100, "micro_batch": 32}, "multiple of it \\(96 or 128\\)"),
        ({"global_batch": 3, "micro_batch": 4}, "multiple of it \\(4\\)"),
        ({"micro_batch": 0}, "micro_batch=0 must be at least 1"),
        ({"epochs": 0}, "epochs=0"),
        ({"num_samples": 0}, "num_samples=0"),
    ],
)
def test_plans_that_cannot_be_are_refused(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan(**changes)


def test_steps_instead_of_epochs() -> None:
    p = plan(steps=4, epochs=1)
    assert p.total_steps == 4
    assert [p.epoch_of(s) for s in range(4)] == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="steps=0"):
        plan(steps=0)


def test_what_lies_in_a_jumped_window_is_never_seen() -> None:
    p = plan(epochs=2)
    jumped = replace(p, jumps=(Jump(at=1, length=2), Jump(at=3, length=1)))
    # Steps 0, then 3, 4, then 6: the second epoch's last (5) is jumped, and a third has begun.
    assert [jumped.data_step(s) for s in range(5)] == [0, 3, 4, 6, 7]
    assert [jumped.epoch_of(s) for s in range(4)] == [0, 1, 1, 2]
    assert [jumped.position(s) for s in range(4)] == [0, 47, 67, 94]
    assert [jumped.num_samples_in(s) for s in range(4)] == [20] * 4
    assert jumped.total_steps == p.total_steps
    mine = np.concatenate(jumped.samples(1, jumped.turns(1, 0, 1)))
    theirs = np.concatenate(p.samples(3, p.turns(3, 0, 1)))
    assert mine.tolist() == theirs.tolist()


def test_a_stream_is_read_in_its_own_order() -> None:
    p = plan(num_samples=2**62, in_order=True, steps=10**6, epochs=1)
    seen = np.concatenate(p.samples(999_999, p.turns(999_999, 0, 1)))
    assert seen.tolist() == list(range(999_999 * 20, 10**6 * 20))


@pytest.mark.parametrize("at_most", [1, 10, 35, 10**6])
def test_stretches_hold_every_step_once_and_never_two_epochs(at_most: int) -> None:
    p = BatchPlan(
        num_samples=53,
        global_batch=10,
        micro_batch=5,
        epochs=4,
        seed=3,
        jumps=(Jump(at=7, length=4), Jump(at=9, length=1)),
    )
    stretches = list(p.stretches(2, at_most=at_most))
    assert [step for steps in stretches for step in steps] == list(range(2, p.total_steps))
    assert all(len({p.epoch_of(step) for step in steps}) == 1 for steps in stretches)
    assert all(len(steps) <= max(1, at_most // 10) for steps in stretches)
    for steps in stretches:
        together = p.samples(steps.start, [t for s in steps for t in p.turns(s, 1, 2)])
        singly = [i for s in steps for i in p.samples(s, p.turns(s, 1, 2))]
        assert [i.tolist() for i in together] == [i.tolist() for i in singly]
