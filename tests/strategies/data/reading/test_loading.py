"""Seeking is constant in time and memory, counted in operations; prefetch crosses epochs."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from strategies.data import permutation as order
from strategies.data.batches import BatchPlan
from strategies.data.options import Loading
from strategies.data.reading.loading import training_batches

BILLION = 10**9


class Numbers:
    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        self.asked.append(index)
        return index


def opened(data: Numbers, first_step: int, **changes: Any) -> Any:
    values: dict[str, Any] = {"global_batch": 64, "micro_batch": 16, "epochs": 3, "seed": 4}
    plan = BatchPlan(num_samples=len(data), **(values | changes))
    return training_batches(data, plan, first_step=first_step, rank=0, world_size=2)


@pytest.mark.parametrize("first_step", [0, BILLION // 64 // 2, 3 * (BILLION // 64) - 2])
def test_a_seek_in_a_billion_samples_permutes_a_few_steps_positions(
    first_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    permuted: list[int] = []
    feistel = order._feistel

    def counting(values: Any, *rest: Any) -> Any:
        permuted.append(len(values))
        return feistel(values, *rest)

    monkeypatch.setattr(order, "_feistel", counting)
    data = Numbers(BILLION)
    tracemalloc.start()
    batch = next(opened(data, first_step))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # This rank's two micro-batches of 16 in each step of the first stretch of at most 16 steps,
    # which ends with the run; a few positions leave the range and are walked on.
    steps_left = 3 * -(-BILLION // 64) - first_step
    assert permuted[0] == 32 * min(16, steps_left)
    assert sum(permuted) < permuted[0] + 32
    assert data.asked == batch.tolist()
    assert len(batch) == 16
    assert peak_bytes < 2**21


def test_a_seek_meets_what_a_replay_would_have_met() -> None:
    replayed = [b.tolist() for b in opened(Numbers(100), 0)]
    sought = [b.tolist() for b in opened(Numbers(100), 4)]
    assert sought == replayed[-len(sought) :]
    assert len(sought) == 4


def test_loader_workers_read_ahead_into_the_next_epoch() -> None:
    drawn: list[int] = []

    class Watched(BatchPlan):
        def samples(self, step: int, turns: Any) -> list[np.ndarray]:
            drawn.append(step)
            return super().samples(step, turns)

    plan = Watched(num_samples=8, global_batch=4, micro_batch=4, epochs=4, seed=0)
    to = {"first_step": 0, "rank": 0, "world_size": 1, "loading": Loading(workers=2)}
    batches = training_batches(Numbers(8), plan, **to)
    next(batches)
    next(batches)
    # The first epoch (steps 0 and 1) is over, and the workers have the next ones in hand.
    assert max(drawn) >= 4
    assert len(list(batches)) == 6
