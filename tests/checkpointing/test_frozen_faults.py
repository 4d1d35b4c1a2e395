"""Saves that write or name objects: killed, refused, cut off from power at every operation."""

import errno
import random
import shutil
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from checkpointing import CheckpointStore, FrozenTensors, SaveFailedError, place_at
from checkpointing.storage.objects import all_objects

pytestmark = pytest.mark.timeout(300)


def base_store(kit, tmp_path, *steps):
    """Each step has an object of its own."""
    store = kit.store_at(tmp_path / "base")
    for step in steps:
        kit.save_frozen(store, step, kit.frozen_state(10 + step), FrozenTensors())
    return store


def assert_objects_are_named(store):
    """What is there is what a checkpoint names, and all that one names is there."""
    named = set()
    for step in store.steps():
        with store.open(step) as reader:
            named |= reader.manifest.objects
    assert set(all_objects(store.folder, store.files)) == named


def run_driver(kit, driver, *words):
    path = Path(__file__).with_name(driver)
    done = kit.run_python(path, *words, timeout_s=240)
    assert done.returncode == 0, done.stderr
    return [
        sorted((words[0] / when).iterdir(), key=lambda path: int(path.name))
        for when in ("before", "after")
    ]


@pytest.mark.parametrize(
    "action", ["frozen", *(pytest.param(f"frozen-{n}", marks=pytest.mark.slow) for n in (0, 1))]
)
def test_a_killed_save_is_complete_or_invisible(kit, tmp_path, action):
    base_store(kit, tmp_path, 1)
    for folders in run_driver(kit, "kill_driver.py", tmp_path, action):
        assert len(folders) > 10
        seen = []
        for folder in folders:
            store = kit.store_at(folder)
            kit.assert_holds(store, 1, kit.frozen_state(11))
            seen.append(store.steps() == [2, 1])
            if seen[-1]:
                kit.assert_holds(store, 2, kit.frozen_state(2))
            store.sweep()
            assert_objects_are_named(store)
            kit.save_frozen(store, 3, kit.frozen_state(3), FrozenTensors())
            kit.assert_holds(store, 3, kit.frozen_state(3))
            shutil.rmtree(folder)
        assert seen == sorted(seen)
        assert seen[-1]
        assert not seen[0]


def test_a_killed_deletion_loses_no_object_that_another_names(kit, tmp_path):
    base = base_store(kit, tmp_path, 1)
    stored = FrozenTensors()
    for step in (2, 3):
        kit.save_frozen(base, step, kit.frozen_state(10 + step), stored)
    base.delete(3)
    for folders in run_driver(kit, "kill_driver.py", tmp_path, "delete"):
        for folder in folders:
            store = kit.store_at(folder)
            if 2 in store.steps():
                kit.assert_holds(store, 2, kit.frozen_state(12))
            kit.assert_holds(store, 1, kit.frozen_state(11))
            store.sweep()
            assert_objects_are_named(store)
        assert kit.store_at(folders[-1]).steps() == [1]


@pytest.mark.slow
def test_a_save_to_an_object_store_killed_at_any_call(kit, tmp_path):
    pytest.importorskip("fsspec")
    place = place_at(f"file://{tmp_path / 'base'}")
    base = CheckpointStore(place.folder, place.files, block_bytes=kit.BLOCK_BYTES)
    kit.save_frozen(base, 1, kit.frozen_state(1), FrozenTensors())
    for folders in run_driver(kit, "object_kill_driver.py", tmp_path, "frozen"):
        assert len(folders) > 10
        seen = []
        for folder in folders:
            store = kit.store_at_url(f"file://{folder}")
            kit.assert_holds(store, 1, kit.frozen_state(1))
            seen.append(store.steps() == [2, 1])
            if seen[-1]:
                kit.assert_holds(store, 2, kit.frozen_state(2))
            store.sweep()
            assert_objects_are_named(store)
        assert seen == sorted(seen)
        assert seen[-1]


@pytest.mark.parametrize(
    ("is_first", "code"),
    [(True, errno.ENOSPC), (False, errno.EIO)],
    ids=["writes it, full", "names it, broken"],
)
def test_a_refusal_at_any_operation_loses_nothing(kit, tmp_path, code, is_first):
    for at in count():
        root = tmp_path / str(at)
        store, stored = kit.store_at(root), FrozenTensors()
        kit.save_frozen(store, 1, kit.frozen_state(1), stored)
        if is_first:
            stored.forget()
        files = kit.failing_files(at, code)
        with suppress(SaveFailedError):
            kit.save_frozen(kit.store_at(root, files), 2, kit.frozen_state(2), stored)
        kit.assert_holds(store, 1, kit.frozen_state(1))
        if 2 in store.steps():
            kit.assert_holds(store, 2, kit.frozen_state(2))
        kit.save_frozen(store, 3, kit.frozen_state(3), stored)
        kit.assert_holds(store, 3, kit.frozen_state(3))
        store.sweep()
        assert_objects_are_named(store)
        shutil.rmtree(root)
        if at >= len(files.log):
            break
    assert at > 15


def test_after_a_power_loss_every_named_checkpoint_is_whole(kit, disks, tmp_path):
    root = tmp_path / "live"
    root.mkdir()
    disk = disks.ModelledDisk(root)
    store, rng, folders = kit.store_at(root, disk), random.Random(7), []
    several = [FrozenTensors(), FrozenTensors()]

    def save(step):
        outcomes = kit.run_ranks(
            2,
            lambda talk: kit.save_frozen(
                store, step, kit.frozen_state(step), several[talk.rank], talk
            ),
        )
        assert not any(isinstance(outcome, BaseException) for outcome in outcomes), outcomes

    def cut():
        reached = partial(lambda draw, folder, number: draw.random() < 0.5, rng)
        for has_reached in (disks.nothing_early, disks.everything_early, reached):
            folders.append(tmp_path / f"{len(folders)}")
            disks.restore(disk.tree, folders[-1], has_reached, rng.choice(list(disks.TAILS)))

    save(1)
    several = [FrozenTensors(), FrozenTensors()]
    disk.after_each = cut
    save(2)
    num_first = len(folders)
    save(3)
    disk.after_each = lambda: None
    assert len(folders) > num_first > 100
    for number, folder in enumerate(folders):
        left = kit.store_at(folder)
        kit.assert_holds(left, 1, kit.frozen_state(1))
        assert number < num_first or 2 in left.steps()
        assert [line for step in left.steps() for line in left.verify(step)] == []
        left.sweep()
        assert_objects_are_named(left)
    for has_reached in (disks.nothing_early, disks.everything_early):
        folders.append(tmp_path / f"{len(folders)}")
        disks.restore(disk.tree, folders[-1], has_reached)
        kit.assert_holds(kit.store_at(folders[-1]), 3, kit.frozen_state(3))
