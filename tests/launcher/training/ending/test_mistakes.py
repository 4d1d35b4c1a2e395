"""What a mistake costs: the agreement of the ranks, and the sentences."""

import threading
import time
from datetime import timedelta

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from launcher.training.ending.mistakes import (
    Standing,
    agree_to_save,
    code_of_mistake,
    kept_text,
    mistake_text,
    save_before_leaving,
)
from strategies import Ranks

AT_5 = Standing(step=5, place=("evaluation", 4), newest_step=None, can_be_saved=True)
IN_6 = Standing(step=5, place=("step", 5, 0, True, False), newest_step=None, can_be_saved=True)


def ranks(rank, world_size):
    return Ranks(rank=rank, world_size=world_size, device=torch.device("cpu"), host_group=None)


def agreed(standings, wait_s=0.5, *, asked=lambda: False, store=None):
    """Let each rank that has a standing come with it, all at once; return what they are told."""
    store = store or HashStore()
    store.set_timeout(timedelta(seconds=5))
    found = [None] * len(standings)

    def come(rank, standing):
        one = ranks(rank, len(standings))
        found[rank] = agree_to_save(one, store, standing, wait_s=wait_s, asked=asked)

    threads = [
        threading.Thread(target=come, args=(rank, standing))
        for rank, standing in enumerate(standings)
        if standing is not None
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    return found


@pytest.mark.parametrize(
    ("standings", "told"),
    [
        ([AT_5], [True]),
        ([AT_5, AT_5, AT_5], [True, True, True]),
        ([AT_5, IN_6], [False, False]),
        ([AT_5, None, AT_5], [False, None, False]),
        ([None, AT_5], [None, False]),
        ([IN_6, None], [False, None]),
    ],
)
def test_ranks_save_together_or_not_at_all(standings, told):
    assert agreed(standings) == told


def test_a_rank_that_is_asked_to_leave_hardly_waits():
    began = time.monotonic()
    assert agreed([None, AT_5], 60.0, asked=lambda: True) == [None, False]
    assert agreed([AT_5, None], 60.0, asked=lambda: True) == [False, None]
    assert agreed([AT_5, AT_5], 60.0, asked=lambda: True) == [True, True]
    assert time.monotonic() - began < 30


def test_what_a_rank_that_left_has_decided_holds_for_those_that_come_later():
    store = HashStore()
    assert agreed([None, AT_5], 0.1, store=store) == [None, False]
    assert agreed([AT_5, None], 10.0, store=store) == [False, None]


def test_what_is_on_the_disk_is_said():
    def fails():
        raise OSError("the disk is full")

    saved = save_before_leaving(AT_5, lambda: 5, lambda: True)
    assert saved.startswith("The 5 finished steps are saved: ")
    already = Standing(step=5, place=(), newest_step=5, can_be_saved=False)
    assert save_before_leaving(already, fails, lambda: True) == saved
    assert "(not all ranks reached this point)" in save_before_leaving(AT_5, fails, lambda: False)
    assert "the disk is full" in save_before_leaving(AT_5, fails, lambda: True)
    torn = Standing(step=5, place=(), newest_step=3, can_be_saved=False)
    sentence = save_before_leaving(torn, fails, lambda: True)
    assert "The steps since step 3 could not be saved" in sentence
    assert sentence.endswith("starts from step 3.")
    assert kept_text(5, None, why="x").endswith("starts from step 0.")
    assert kept_text(1, 1).startswith("The 1 finished step is saved")


def test_the_line_stands_in_front():
    assert mistake_text("no.", "train.py:4") == "train.py:4: no."
    assert mistake_text("no.", "train.py:4", step=7) == "train.py:4, in step 7: no."
    assert mistake_text("no.", None) == "no."
    assert mistake_text("left (train.py:4).", "train.py:4") == "left (train.py:4)."


def test_the_code_says_whether_something_was_begun():
    assert (code_of_mistake(has_trained=False), code_of_mistake(has_trained=True)) == (2, 1)
