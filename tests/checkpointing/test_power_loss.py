"""A model of a disk that keeps only what was synced, cut off after every operation of a save.

The model is the pessimist's: bytes are lost unless their file was synced, names unless their
folder was. Renames and new names in the store's folder may also have reached the disk early.
"""

import pytest

from checkpointing import DamagedCheckpointError, Files


class Node:
    """A file or a folder: what is there now, and what would be there after a power loss."""

    def __init__(self, is_dir):
        self.is_dir = is_dir
        self.content = {} if is_dir else b""
        self.durable = {} if is_dir else b""


class ModelledDisk(Files):
    """Does what `Files` does, and keeps the model of one root folder in step with it."""

    def __init__(self, root, forgets=()):
        self.root = root
        self.tree = Node(is_dir=True)
        self.forgets = forgets
        self.path_of = {}
        self.after_each = lambda: None

    def _node(self, path):
        node = self.tree
        for part in path.relative_to(self.root).parts:
            node = node.content[part]
        return node

    def _put(self, path, node):
        self._node(path.parent).content[path.name] = node
        self.after_each()

    def mkdir(self, path):
        super().mkdir(path)
        self._put(path, Node(is_dir=True))

    def create(self, path):
        fd = super().create(path)
        self.path_of[fd] = path
        self._put(path, Node(is_dir=False))
        return fd

    def pwrite(self, fd, data, offset):
        written = super().pwrite(fd, data, offset)
        self._node(self.path_of[fd]).content = self.path_of[fd].read_bytes()
        self.after_each()
        return written

    def fsync(self, fd):
        super().fsync(fd)
        if self.path_of[fd].name not in self.forgets:
            node = self._node(self.path_of[fd])
            node.durable = node.content
        self.after_each()

    def fsync_dir(self, path):
        super().fsync_dir(path)
        if ("tmp" if path.name.startswith(".tmp") else "store") not in self.forgets:
            node = self._node(path)
            node.durable = dict(node.content)
        self.after_each()

    def rename(self, old, new):
        super().rename(old, new)
        node = self._node(old.parent).content.pop(old.name)
        self._put(new, node)

    def rmtree(self, path):
        super().rmtree(path)
        node = self._node(path)
        for child in node.content.values():  # the content may be lost first, and the name last
            child.durable = b""
        self.after_each()
        del self._node(path.parent).content[path.name]
        self.after_each()


def restore(node, folder, early_names):
    """Write what a power loss leaves of a modelled folder."""
    folder.mkdir()
    names = node.content if early_names else node.durable
    for name, child in names.items():
        if child.is_dir:
            restore(child, folder / name, early_names=False)
        else:
            (folder / name).write_bytes(child.durable)


def crash_states(kit, tmp_path, forgets, step):
    """Yield a store after a power loss at each moment of saving a step besides 1 and 2."""
    root = tmp_path / "live"
    root.mkdir()
    disk = ModelledDisk(root, forgets)
    store = kit.store_at(root, disk)
    disk.forgets = ()
    kit.save_state(store, 1, kit.sample_state(1))
    kit.save_state(store, 2, kit.sample_state(2))
    disk.forgets = forgets
    folders = []

    def cut():
        for early_names in (False, True):
            folders.append(tmp_path / f"{len(folders)}-{early_names}")
            restore(disk.tree, folders[-1], early_names)

    disk.after_each = cut
    kit.save_state(store, step, kit.sample_state(3))
    return [kit.store_at(folder) for folder in folders]


@pytest.mark.parametrize("step", [3, 2], ids=["new step", "same step again"])
def test_after_a_power_loss_every_named_checkpoint_is_whole(kit, tmp_path, step):
    stores = crash_states(kit, tmp_path, (), step)
    assert len(stores) > 30
    for store in stores:
        kit.assert_holds(store, 1, kit.sample_state(1))
        for found in store.steps():
            assert store.verify(found) == []
        store.sweep()
        assert kit.leftovers(store.folder) == []
    # Once the save has returned it is there for good, however little reached the disk by itself.
    for store in stores[-2:]:
        kit.assert_holds(store, step, kit.sample_state(3))


@pytest.mark.parametrize("forgotten", ["r00000.safetensors", "manifest.json", "tmp", "store"])
def test_the_model_notices_each_missing_sync(kit, tmp_path, forgotten):
    stores = crash_states(kit, tmp_path, (forgotten,), 3)
    is_torn = any(store.verify(step) for store in stores for step in store.steps())
    is_lost = 3 not in stores[-2].steps()
    assert (is_torn, is_lost) == ((False, True) if forgotten == "store" else (True, False))


def test_a_torn_checkpoint_is_damage(kit, tmp_path):
    for store in crash_states(kit, tmp_path, ("manifest.json",), 3):
        if 3 in store.steps():
            with pytest.raises(DamagedCheckpointError):
                store.open(3)
