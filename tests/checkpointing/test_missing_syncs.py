"""Each sync of the package is taken out in turn, and something must be lost or torn by it.

The places are found in the source: a new sync that no scenario here depends on is a failure.
"""

import ast
import errno
from pathlib import Path

import pytest

import checkpointing
from checkpointing import (
    DamagedCheckpointError,
    FrozenTensors,
    SaveFailedError,
    export_safetensors,
    export_sharded,
)

PACKAGE = Path(checkpointing.__file__).parent
SYNCS = ("fsync", "fsync_dir")


def find_syncs():
    """Return (file, line) of every call of the seam's two syncs."""
    return sorted(
        (str(path.relative_to(PACKAGE)), node.lineno)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in SYNCS
        and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "os")
    )


class Scenes:
    """What must be true of a disk that lost its power; every scene is one operation of a store."""

    def __init__(self, kit, disks, folder, forgotten):
        self.kit, self.disks, self.folder, self.forgotten = kit, disks, folder, forgotten
        self.number = 0

    def disk(self):
        """Return an empty disk that leaves out the sync in question."""
        self.number += 1
        root = self.folder / f"live-{self.number}"
        root.mkdir()
        return self.disks.ModelledDisk(root, forgotten_call=self.forgotten)

    def after(self, disk, *, early_names=False):
        """Return what a power loss leaves of a disk right now."""
        self.number += 1
        restored = self.folder / f"restored-{self.number}"
        reached = self.disks.everything_early if early_names else self.disks.nothing_early
        self.disks.restore(disk.tree, restored, reached)
        return restored

    def saved(self, disk):
        store = self.kit.store_at(disk.root / "run" / "checkpoints", disk)
        self.kit.save_state(store, 1, self.kit.sample_state(1))
        return store

    def source(self):
        """Return a store with one step, on a disk that loses nothing."""
        source = self.kit.store_at(self.folder / "source")
        if not source.steps():
            self.kit.save_state(source, 1, self.kit.sample_state(1))
        return source

    def saving(self):
        """A save that has returned is there; one that has not is whole or not there."""
        disk = self.disk()
        seen = []
        disk.after_each = lambda: seen.append(self.after(disk, early_names=True))
        self.saved(disk)
        disk.after_each = lambda: None
        for restored in [*seen, self.after(disk)]:
            store = self.kit.store_at(restored / "run" / "checkpoints")
            assert not any(store.verify(step) for step in store.steps())
        store = self.kit.store_at(self.after(disk) / "run" / "checkpoints")
        self.kit.assert_holds(store, 1, self.kit.sample_state(1))

    def saving_frozen_tensors(self):
        """The same of a save that writes an object, and of one that names it."""
        disk = self.disk()
        store = self.kit.store_at(disk.root / "run" / "checkpoints", disk)
        stored, seen = FrozenTensors(), []
        disk.after_each = lambda: seen.append(self.after(disk, early_names=True))
        for step in (1, 2):
            self.kit.save_frozen(store, step, self.kit.frozen_state(step), stored)
        disk.after_each = lambda: None
        for restored in [*seen, self.after(disk)]:
            left = self.kit.store_at(restored / "run" / "checkpoints")
            assert not any(left.verify(step) for step in left.steps())
        left = self.kit.store_at(self.after(disk) / "run" / "checkpoints")
        for step in (1, 2):
            self.kit.assert_holds(left, step, self.kit.frozen_state(step))

    def sharing_frozen_tensors(self):
        """The same of a save that names what another store has written."""
        disk = self.disk()
        first, second = (self.kit.store_at(disk.root / name, disk) for name in ("one", "two"))
        stored, adopted, state = FrozenTensors(), FrozenTensors(), self.kit.frozen_state(1)
        self.kit.save_frozen(first, 1, state, stored)
        assert second.share_objects(first, stored.objects)
        adopted.adopt(stored)
        self.kit.save_frozen(second, 1, state, adopted)
        self.kit.assert_holds(self.kit.store_at(self.after(disk) / "two"), 1, state)

    def deleting(self):
        """The content is not lost before the name is."""
        disk = self.disk()
        store = self.saved(disk)
        self.kit.save_state(store, 2, self.kit.sample_state(2))
        seen = []
        disk.after_each = lambda: seen.append(self.after(disk))
        store.delete(1)
        for restored in seen:
            left = self.kit.store_at(restored / "run" / "checkpoints")
            assert not any(left.verify(step) for step in left.steps())
            self.kit.assert_holds(left, 2, self.kit.sample_state(2))

    def setting_aside(self):
        """What was set aside does not come back."""
        disk = self.disk()
        self.saved(disk).set_aside(1)
        assert self.kit.store_at(self.after(disk) / "run" / "checkpoints").steps() == []

    def pinning(self):
        """A pin that was given holds, and one that was taken away does not come back."""
        disk = self.disk()
        store = self.saved(disk)
        store.pin(1)
        assert self.kit.store_at(self.after(disk) / "run" / "checkpoints").is_pinned(1)
        store.unpin(1)
        assert not self.kit.store_at(self.after(disk) / "run" / "checkpoints").is_pinned(1)

    def exporting_a_file(self):
        """A file under its name is whole; once the export has returned it is there."""
        disk, source = self.disk(), self.source()
        seen = []
        disk.after_each = lambda: seen.append(self.after(disk, early_names=True))
        with source.open(1) as reader:
            size_bytes = export_safetensors(reader, disk.root / "model", metadata={}, files=disk)
        for restored in seen:
            path = restored / "model"
            assert not path.exists() or path.stat().st_size == size_bytes
        assert (self.after(disk) / "model").stat().st_size == size_bytes

    def exporting_a_folder(self):
        """The same of a folder with several files."""
        disk, source = self.disk(), self.source()
        seen = []
        disk.after_each = lambda: seen.append(self.after(disk, early_names=True))
        with source.open(1) as reader:
            export_sharded(reader, disk.root / "hf", max_file_bytes=500, metadata={}, files=disk)
        sizes = {path.name: path.stat().st_size for path in (disk.root / "hf").iterdir()}
        assert len(sizes) > 2
        for restored in [*seen, self.after(disk)]:
            if (restored / "hf").exists():
                found = {p.name: p.stat().st_size for p in (restored / "hf").iterdir()}
                assert found == sizes
        assert (self.after(disk) / "hf").exists()

    def probing(self):
        """A disk that cannot sync is found before the training."""
        for name in SYNCS:
            disk = self.disk()
            disk.make_dirs(disk.root / "run")

            def refuse(target, name=name, disk=disk):
                if disk.is_forgotten():
                    return
                raise OSError(errno.EIO, "injected")

            setattr(disk, name, refuse)
            with pytest.raises(SaveFailedError, match="injected"):
                self.kit.store_at(disk.root / "run", disk).check_writable()


SCENES = (
    Scenes.saving,
    Scenes.saving_frozen_tensors,
    Scenes.sharing_frozen_tensors,
    Scenes.deleting,
    Scenes.setting_aside,
    Scenes.pinning,
    Scenes.exporting_a_file,
    Scenes.exporting_a_folder,
    Scenes.probing,
)


def play(scenes):
    """Return the names of the scenes that went wrong."""
    wrong = []
    for scene in SCENES:
        try:
            scene(scenes)
        except (AssertionError, DamagedCheckpointError, FileNotFoundError, pytest.fail.Exception):
            wrong.append(scene.__name__)
    return wrong


def test_with_all_syncs_nothing_is_lost(kit, disks, tmp_path):
    assert play(Scenes(kit, disks, tmp_path, None)) == []


@pytest.mark.parametrize("place", find_syncs(), ids=lambda place: f"{place[0]}:{place[1]}")
def test_without_this_sync_something_is_lost(kit, disks, tmp_path, place):
    assert play(Scenes(kit, disks, tmp_path, place)) != []


def test_the_syncs_are_found():
    assert len(find_syncs()) >= 12
