"""When no rank gets on."""

import os

import pytest

from launcher.agent.attempts.hang_detection import HangWatch, where
from launcher.agent.attempts.stack_dump import kernel_stacks
from launcher.contract.files.heartbeat import Heartbeat
from launcher.contract.quiet_clock import QuietClock


@pytest.mark.parametrize(
    ("looks", "quiet_s"),
    [
        ([], 0),
        ([(0, {}), (1, {}), (2, {})], 0),
        ([(0, {0: 1}), (1, {0: 1}), (2, {0: 1})], 2),
        ([(0, {0: 1}), (1, {0: 1}), (2, {0: 2})], 0),
        ([(0, {0: 1, 1: 5}), (1, {0: 1, 1: 6}), (2, {0: 1, 1: 6})], 1),
        ([(0, {0: 1}), (1, {0: 1, 1: 1}), (2, {0: 1, 1: 1})], 1),
        # a suspended machine: the clock went on, the ranks did not
        ([(0, {0: 1}), (1, {0: 1}), (5000, {0: 1})], 3),
    ],
)
def test_quiet_time(looks, quiet_s):
    clock = QuietClock()
    for now, counts in looks:
        clock.look(now, counts)
    assert clock.quiet_s == quiet_s


def test_watch(tmp_path):
    watch = HangWatch(3.0, {0: tmp_path / "0", 1: tmp_path / "1"})
    assert not any(watch.is_hung(float(now)) for now in range(1, 50))
    Heartbeat(tmp_path / "1").beat(6)
    assert [watch.is_hung(float(now)) for now in range(50, 54)] == [False, False, False, True]
    assert watch.step == 6
    assert watch.text() == "no rank made progress for 3 s after step 6; killing all of them."
    assert watch.text("no rank of node 1 (b) made progress") == (
        "no rank of node 1 (b) made progress; killing those of this node too."
    )


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({}, ""),
        ({0: 6, 1: 6}, " after step 6"),
        ({0: 5, 1: 6}, " after step 6 (rank 0 after step 5)"),
        ({0: 5, 1: 6, 2: 5, 3: 4}, " after step 6 (rank 3 after step 4; ranks 0, 2 after step 5)"),
        (
            {rank: int(rank == 9) for rank in range(10)},
            " after step 1 (ranks 0, 1, 2, 3, 4 and others after step 0)",
        ),
    ],
)
def test_ranks_that_are_behind_are_named(steps, expected):
    assert where(steps) == expected


def test_what_the_kernel_knows():
    lines = list(kernel_stacks(os.getpid()))
    assert lines[0].startswith(f"thread {os.getpid()} (")
    assert list(kernel_stacks(0)) == []


def test_the_main_thread_comes_first_also_where_numbers_have_started_again(tmp_path):
    for tid in (700, 31, 900):
        (tmp_path / "700" / "task" / str(tid)).mkdir(parents=True)
    threads = [line.split()[1] for line in kernel_stacks(700, proc=tmp_path)]
    assert threads == ["700", "31", "900"]
