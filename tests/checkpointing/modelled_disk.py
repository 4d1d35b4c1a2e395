"""A disk that may lose its power: what of it is sure, and what may or may not have reached it.

The pessimist's model: a file's bytes are lost, zeroed or cut off unless the file was synced. Of the
changes to a folder's names since it was last synced, any may have reached the disk and any may not;
only a rename is one change.
"""

import sys
import threading
from pathlib import Path

import checkpointing
from checkpointing import Files

PACKAGE = Path(checkpointing.__file__).parent
TAILS = {
    "lost": lambda durable, content: durable,
    "zeroed": lambda durable, content: durable + bytes(max(0, len(content) - len(durable))),
    "cut off": lambda durable, content: durable if durable else content[: len(content) // 2],
    "complete": lambda durable, content: content,
}


class Node:
    """A file or a folder: what is there now, and what would be there after a power loss."""

    def __init__(self, is_dir):
        self.is_dir = is_dir
        self.content = {} if is_dir else b""
        self.durable = {} if is_dir else b""
        self.pending = []
        self.num_names = 1

    def change(self, *changes):
        """Apply a change of names now; it is one whole that the disk has or has not."""
        self.pending.append(changes)
        apply(changes, self.content)


def apply(changes, names):
    for name, node in changes:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def caller_in_package():
    """Return (file, line) of the innermost line of the package that is being run."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return str(path.relative_to(PACKAGE)), frame.f_lineno
        frame = frame.f_back
    return None


class ModelledDisk(Files):
    """Does what `Files` does, and keeps the model of one root folder in step with it.

    Args:
        root: An empty folder.
        forgotten_call: (file, line) of a sync that does nothing; None: all work.
    """

    def __init__(self, root, forgotten_call=None):
        self.root = root
        self.tree = Node(is_dir=True)
        self.forgotten_call = forgotten_call
        self.path_of = {}
        self.lock = threading.RLock()  # the ranks are threads
        self.after_each = lambda: None

    def is_forgotten(self):
        """Tell whether the sync that is being called is the one left out."""
        return self.forgotten_call is not None and caller_in_package() == self.forgotten_call

    def _node(self, path):
        node = self.tree
        for part in path.relative_to(self.root).parts:
            node = node.content[part]
        return node

    def _put(self, path, node):
        self._node(path.parent).change((path.name, node))
        self.after_each()

    def mkdir(self, path):
        with self.lock:
            super().mkdir(path)
            self._put(path, Node(is_dir=True))

    def create(self, path):
        with self.lock:
            fd = super().create(path)
            self.path_of[fd] = path
            self._put(path, Node(is_dir=False))
            return fd

    def pwrite(self, fd, data, offset):
        with self.lock:
            written = super().pwrite(fd, data, offset)
            self._node(self.path_of[fd]).content = self.path_of[fd].read_bytes()
            self.after_each()
            return written

    def fsync(self, fd):
        with self.lock:
            super().fsync(fd)
            if not self.is_forgotten():
                node = self._node(self.path_of[fd])
                node.durable = node.content
            self.after_each()

    def fsync_dir(self, path):
        with self.lock:
            super().fsync_dir(path)
            if not self.is_forgotten():
                node = self._node(path)
                node.durable, node.pending = dict(node.content), []
            self.after_each()

    def rename(self, old, new):
        with self.lock:
            super().rename(old, new)
            node = self._node(old)
            assert old.parent == new.parent
            self._node(old.parent).change((old.name, None), (new.name, node))
            self.after_each()

    def link(self, old, new):
        with self.lock:
            super().link(old, new)
            node = self._node(old)
            node.num_names += 1
            self._put(new, node)

    def unlink(self, path):
        with self.lock:
            super().unlink(path)
            self._node(path).num_names -= 1
            self._put(path, None)

    def rmtree(self, path):
        with self.lock:
            super().rmtree(path)
            node = self._node(path)
            for child in node.content.values():  # the content may be lost first, the name last
                child.num_names -= 1
                if not child.num_names:
                    child.content = child.durable = b""
            self.after_each()
            self._put(path, None)


def restore(node, folder, has_reached, tail="lost"):
    """Write what a power loss leaves of a modelled folder.

    Args:
        node: The folder.
        folder: Where; must not exist.
        has_reached: From the folder's path and the number of a change of its names that was not
            synced, whether the disk has it.
        tail: What is left of bytes that were not synced, one of `TAILS`.
    """
    folder.mkdir()
    names = dict(node.durable)
    for number, changes in enumerate(node.pending):
        if has_reached(folder, number):
            apply(changes, names)
    for name, child in names.items():
        if child.is_dir:
            restore(child, folder / name, has_reached, tail)
        else:
            (folder / name).write_bytes(TAILS[tail](child.durable, child.content))


def nothing_early(folder, number):
    """Only what was synced has reached the disk."""
    return False


def everything_early(folder, number):
    """All names have reached the disk, the bytes have not."""
    return True
