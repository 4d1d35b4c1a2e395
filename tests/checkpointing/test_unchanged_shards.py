"""A save of tensors that are as the newest checkpoint has them writes a manifest alone."""

import errno
import os
import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from checkpointing import (
    BackgroundWriter,
    CheckpointStore,
    Files,
    FrozenTensors,
    OwnShard,
    SaveFailedError,
)

pytestmark = pytest.mark.timeout(300)

MANIFEST_BYTES = 4000


@pytest.fixture
def store(kit: ModuleType, tmp_path: Path) -> Any:
    return kit.store_at(tmp_path / "checkpoints")


def inode(store: CheckpointStore, step: int) -> int:
    return os.stat(store.path(step) / "r00000.safetensors").st_ino


class Saves:
    """The saves of one rank."""

    def __init__(self, kit: ModuleType, writer: BackgroundWriter | None = None) -> None:
        self.kit, self.writer = kit, writer
        self.stored, self.own_shard = FrozenTensors(), OwnShard()

    def save(self, store: CheckpointStore, step: int, state: Any, talk: Any = None) -> int:
        saved = self.kit.save_frozen(
            store, step, state, self.stored, talk, self.writer, self.own_shard
        )
        return int(saved.size_bytes)


@pytest.mark.parametrize("steps", [(1, 1, 1), (1, 2, 5)], ids=["one step", "several steps"])
def test_only_the_manifest_is_written(
    kit: ModuleType, store: CheckpointStore, writer: BackgroundWriter | None, steps: tuple[int, ...]
) -> None:
    saves, state = Saves(kit, writer), kit.frozen_state(1)
    sizes = [saves.save(store, step, state) for step in steps]
    manifests = [os.path.getsize(store.path(step) / "manifest.json") for step in steps]
    assert sizes[1:] == manifests[1:]
    assert sizes[0] > manifests[0] + 4096
    for step in set(steps):
        kit.assert_holds(store, step, state)
        assert store.verify(step) == []
    assert len({inode(store, step) for step in steps}) == 1


@pytest.mark.parametrize(("second", "is_written"), [(1, False), (2, True)])
def test_in_an_object_store_the_object_of_the_same_step_is_named(
    kit: ModuleType, tmp_path: Path, second: int, is_written: bool
) -> None:
    pytest.importorskip("fsspec")
    store = kit.store_at_url(f"memory://{tmp_path.name}/checkpoints")
    saves, state = Saves(kit), kit.frozen_state(1)
    first_bytes = saves.save(store, 1, state)
    second_bytes = saves.save(store, second, state)
    # The base has 3,000 bytes, and its file a header of 4,096.
    assert (second_bytes > first_bytes - 8000) == is_written
    kit.assert_holds(store, second, state)
    store.sweep()
    kit.assert_holds(store, second, state)
    assert store.verify(second) == []
    names = [n for n in store.files.listdir(store.path(second)) if n.endswith(".safetensors")]
    assert len(names) == 1
    store.delete(second)
    assert store.steps() == [1][: second - 1]


def test_in_an_object_store_a_changed_state_replaces_the_object(
    kit: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip("fsspec")
    store = kit.store_at_url(f"memory://{tmp_path.name}/checkpoints")
    saves = Saves(kit)
    for seed in (1, 2):
        saves.save(store, 1, kit.frozen_state(seed))
    kit.assert_holds(store, 1, kit.frozen_state(2))


def test_each_rank_names_its_own_and_one_that_changed_writes(
    kit: ModuleType, store: CheckpointStore
) -> None:
    state = kit.frozen_state(1)
    several = [Saves(kit) for _ in range(3)]
    sizes = []
    for step in (1, 2, 3):
        if step == 3:
            state[0][1][0, 0, 0] += 1  # in the part of rank 0
        done = kit.run_ranks(
            3, lambda talk, step=step: several[talk.rank].save(store, step, state, talk)
        )
        assert not any(isinstance(one, BaseException) for one in done), done
        sizes.append(done[0])
        kit.assert_holds(store, step, state)
    assert sizes[1] < MANIFEST_BYTES
    assert inode(store, 1) == inode(store, 2) != inode(store, 3)
    last = "r00001.safetensors"
    assert os.path.samefile(store.path(1) / last, store.path(3) / last)


@pytest.mark.parametrize("element", [0, 100, 272])
def test_one_changed_element_is_written(
    kit: ModuleType, store: CheckpointStore, writer: BackgroundWriter | None, element: int
) -> None:
    saves, state = Saves(kit, writer), kit.frozen_state(1)
    saves.save(store, 1, state)
    before = [(spec, tensor.clone()) for spec, tensor in state]
    state[1][1].view(-1)[element] += 1e-3
    saves.save(store, 2, state)
    kit.assert_holds(store, 1, before)
    kit.assert_holds(store, 2, state)


def test_the_newer_outlives_the_older(kit: ModuleType, store: CheckpointStore) -> None:
    saves, state = Saves(kit), kit.frozen_state(1)
    for step in (1, 2):
        saves.save(store, step, state)
    assert store.freed_bytes([1]) == store.freed_bytes([2]) == 0
    with store.open(2) as reader:
        size_bytes = reader.manifest.size_bytes
    assert store.freed_bytes([1, 2]) == size_bytes
    store.delete(1)
    kit.assert_holds(store, 2, state)
    assert store.freed_bytes([2]) == size_bytes


@pytest.mark.parametrize("harm", ["flipped", "cut off", "gone", "a link"])
def test_a_shard_that_was_harmed_since_is_not_named_again(
    kit: ModuleType, store: CheckpointStore, writer: BackgroundWriter | None, harm: str
) -> None:
    saves, state = Saves(kit, writer), kit.frozen_state(1)
    saves.save(store, 1, state)
    path = Path(store.path(1) / "r00000.safetensors")
    content = path.read_bytes()
    if harm == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "cut off":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    if harm == "a link":
        elsewhere = Path(store.folder / "elsewhere")
        elsewhere.write_bytes(content)
        path.symlink_to(elsewhere)
    saves.save(store, 2, state)
    kit.assert_holds(store, 2, state)
    assert store.verify(2) == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV])
def test_without_links_it_is_written(kit: ModuleType, tmp_path: Path, code: int) -> None:
    class WithoutLinks(Files):
        def link(self, old: Any, new: Any) -> None:
            raise OSError(code, "no links here")

    store = kit.store_at(tmp_path / "checkpoints", WithoutLinks())
    saves, state = Saves(kit), kit.frozen_state(1)
    for step in (1, 2):
        saves.save(store, step, state)
        kit.assert_holds(store, step, state)
    assert inode(store, 1) != inode(store, 2)


def test_after_a_failed_save_the_committed_one_is_still_named(
    kit: ModuleType, store: CheckpointStore
) -> None:
    saves, state = Saves(kit), kit.frozen_state(1)
    saves.save(store, 1, state)
    store.publishing.before_publish = lambda: exec("raise OSError(28, 'full')")
    with pytest.raises(SaveFailedError, match="full"):
        saves.save(store, 2, state)
    store.publishing.before_publish = lambda: None
    saves.save(store, 3, state)
    assert inode(store, 1) == inode(store, 3)


def test_a_killed_save_is_complete_or_invisible(kit: ModuleType, tmp_path: Path) -> None:
    driver = Path(__file__).with_name("kill_driver.py")
    saves = Saves(kit)
    for step in (1, 2):
        saves.save(kit.store_at(tmp_path / "base"), step, kit.frozen_state(2))
    done = kit.run_python(driver, tmp_path, "unchanged", timeout_s=240)
    assert done.returncode == 0, done.stderr
    for when in ("before", "after"):
        folders = sorted((tmp_path / when).iterdir(), key=lambda path: int(path.name))
        assert len(folders) > 10
        for folder in folders:
            store = kit.store_at(folder)
            steps = store.steps()
            assert steps in ([3, 2, 1], [2, 1])
            for step in steps:
                kit.assert_holds(store, step, kit.frozen_state(2))
            store.sweep()
            assert sorted(os.listdir(folder)) == sorted(
                ["objects", *(f"step-{step:08d}" for step in steps)]
            )
        assert steps == [3, 2, 1]


def test_a_refusal_at_any_operation_loses_nothing(kit: ModuleType, tmp_path: Path) -> None:
    state = kit.frozen_state(1)
    for at in count():
        root = tmp_path / str(at)
        store, saves = kit.store_at(root), Saves(kit)
        saves.save(store, 1, state)
        files = kit.failing_files(at, errno.EIO)
        with suppress(SaveFailedError):
            saves.save(kit.store_at(root, files), 2, state)
        kit.assert_holds(store, 1, state)
        if 2 in store.steps():
            kit.assert_holds(store, 2, state)
        saves.save(store, 3, state)
        kit.assert_holds(store, 3, state)
        shutil.rmtree(root)
        if at >= len(files.log):
            break
    assert at > 12


@pytest.mark.parametrize("second", [1, 2], ids=["the same step", "another step"])
def test_after_a_power_loss_every_named_checkpoint_is_whole(
    kit: ModuleType, disks: ModuleType, tmp_path: Path, second: int
) -> None:
    root = tmp_path / "live"
    root.mkdir()
    disk = disks.ModelledDisk(root)
    store, saves, state = kit.store_at(root, disk), Saves(kit), kit.frozen_state(1)
    folders: list[Path] = []

    def cut() -> None:
        for has_reached in (disks.nothing_early, disks.everything_early):
            folders.append(tmp_path / f"{len(folders)}")
            disks.restore(disk.tree, folders[-1], has_reached)

    saves.save(store, 9, state)
    saves.save(store, 1, state)
    disk.after_each = cut
    saves.save(store, second, state)
    store.delete(9)
    disk.after_each = lambda: None
    assert len(folders) > 20
    for folder in folders:
        left = kit.store_at(folder)
        for step in left.steps():
            kit.assert_holds(left, step, state)
        assert 9 in left.steps() or {1, second} <= set(left.steps())
    folders.append(tmp_path / "last")
    disks.restore(disk.tree, folders[-1], disks.nothing_early)
    kit.assert_holds(kit.store_at(folders[-1]), second, state)
