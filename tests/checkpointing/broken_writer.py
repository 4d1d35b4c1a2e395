"""The writer process on a disk that fails, or dying at an operation.

    python broken_writer.py OPERATION ACTION MEMORY_FD

ACTION is the number of an error, or "kill"; "slow" waits instead, until the parent is gone.
OPERATION is a name, of which the first is struck; or "<n>-before" or "<n>-after" for the n-th of
all; or "each" for the k-th of the k-th file; or "commit-<n>-<when>" for the n-th after the first
file was closed, which a commit does.
"""

import os
import signal
import sys
import time

from checkpointing.background.writer_process import serve
from checkpointing.storage.local_files import Files

operation, action = sys.argv[1:3]


class Broken(Files):
    """Fails, or dies, where it was told."""

    num_files = -1
    number = -1
    in_commit = -1
    was_closed = False
    is_done = False

    def met(self, name, when):
        if operation == "each":
            return when == ("after" if name == "close" else "before") and (
                self.number == self.num_files
            )
        if operation.startswith("commit-"):
            return operation == f"commit-{self.in_commit}-{when}"
        if operation in NAMES + OF_COMMITS:
            return when == "before" and name == operation and not self.is_done
        return operation == f"{self.number}-{when}" and self.num_files == 0


def act(self):
    self.is_done = True
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action != "slow":
        raise OSError(int(action), "injected")
    self.is_done = False
    time.sleep(0.3)


def struck(name):
    def method(self, *args):
        if name == "create":
            self.num_files += 1
            self.number = -1
        self.number += 1
        # The last operation of a shard is a close.
        self.in_commit += self.in_commit >= 0 or self.was_closed
        if self.met(name, "before"):
            act(self)
        result = getattr(Files, name)(self, *args)
        if self.met(name, "after"):
            act(self)
        self.was_closed = name == "close"
        return result

    return method


NAMES = ("create", "preallocate", "pwrite", "fsync", "close")
OF_COMMITS = ("is_dir", "exists", "size", "rename", "fsync_dir", "rmtree")
for name in NAMES + OF_COMMITS:
    setattr(Broken, name, struck(name))
serve(Broken())
