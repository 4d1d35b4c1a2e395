"""Kill a process around its n-th file operation, for every n, each in a copy of one store.

    python kill_driver.py FOLDER ACTION

With ACTION "save-0" or "save-1" two ranks save, and that one is killed. With "background-0" they
save by way of their writer processes.

FOLDER/base holds the store to copy. The kill before operation n is in FOLDER/before/<n>, the one
after it in FOLDER/after/<n>; the first attempt that is not killed is the last one. The children
are forks, because importing torch takes seconds.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import sys
import traceback
from functools import partial
from itertools import count
from pathlib import Path

import kit
import torch

from checkpointing import (
    BackgroundWriter,
    FrozenTensors,
    OwnShard,
    Snapshot,
    StoredBefore,
    export_safetensors,
    start_save,
)

PR_SET_CHILD_SUBREAPER = 36


def save(folder: Path, files: kit.WatchedFiles) -> None:
    kit.save_state(kit.store_at(folder, files), 2, kit.sample_state(2))


class SocketCommunicator:
    """Two processes; the death of one ends the other's waiting."""

    world_size = 2

    def __init__(self, rank: int, pipe: socket.socket) -> None:
        self.rank = rank
        self._pipe = pipe.makefile("rwb")

    def gather(self, value: kit.JSON) -> list[kit.JSON] | None:
        if self.rank:
            self._send(value)
            return None
        return [value, self._receive()]

    def broadcast(self, value: kit.JSON) -> kit.JSON:
        if self.rank:
            return self._receive()
        self._send(value)
        return value

    def _send(self, value: kit.JSON) -> None:
        self._pipe.write(json.dumps(value).encode() + b"\n")
        self._pipe.flush()

    def _receive(self) -> kit.JSON:
        line = self._pipe.readline()
        if not line:
            raise ConnectionError("the other rank is gone")
        return json.loads(line)


def save_synchronously(store: kit.CheckpointStore, talk: SocketCommunicator) -> None:
    kit.save_state(store, 2, kit.sample_state(2), talk)


def save_in_background(store: kit.CheckpointStore, talk: SocketCommunicator) -> None:
    state = kit.sample_state(2)
    snapshot = Snapshot(
        step=2,
        specs=kit.specs_of(state),
        fragments=kit.fragments_of(state, talk.rank, talk.world_size),
        state={},
        created_by={},
    )
    writer = BackgroundWriter()
    start_save(store, snapshot, talk, writer).finish()
    writer.close()


def save_frozen(folder: Path, files: kit.WatchedFiles) -> None:
    kit.save_frozen(kit.store_at(folder, files), 2, kit.frozen_state(2), FrozenTensors())


def save_unchanged(folder: Path, files: kit.WatchedFiles) -> None:
    """Save once more what the newest checkpoint has, which is of step 2."""
    store, stored, own_shard = kit.store_at(folder, files), FrozenTensors(), OwnShard()
    state = kit.frozen_state(2)
    with kit.store_at(folder).open(2) as reader:
        manifest = reader.manifest
    frozen = [f for f in kit.fragments_of(state) if f.spec.key == "param"]
    stored.loaded(manifest.token, StoredBefore.of_manifest(manifest), frozen)
    own_shard.committed(store.path(2), 0, manifest.files)
    kit.save_frozen(store, 3, state, stored, own_shard=own_shard)
    assert (folder / "step-00000003" / "r00000.safetensors").stat().st_nlink > 1


def save_frozen_synchronously(store: kit.CheckpointStore, talk: SocketCommunicator) -> None:
    kit.save_frozen(store, 2, kit.frozen_state(2), FrozenTensors(), talk)


def save_two(victim: int, save_as, folder: Path, files: kit.WatchedFiles) -> None:
    """Save from two processes; this one is the victim, the other one must not hang."""
    mine, theirs = socket.socketpair()
    other = os.fork()
    if other == 0:
        mine.close()
        rank, pipe, files = 1 - victim, theirs, kit.WatchedFiles()
    else:
        theirs.close()
        rank, pipe = victim, mine
    try:
        talk = SocketCommunicator(rank, pipe)
        save_as(kit.store_at(folder, files), talk)
    except ConnectionError:
        os._exit(SURVIVED if other == 0 else FAILED)
    except BaseException:
        traceback.print_exc()
        os._exit(FAILED)
    if other == 0:
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
    assert status == 0, status


def delete(folder: Path, files: kit.WatchedFiles) -> None:
    kit.store_at(folder, files).delete(2)


def export(folder: Path, files: kit.WatchedFiles) -> None:
    with kit.store_at(folder).open(1) as reader:
        export_safetensors(reader, folder / "export", metadata={"n": "new"}, files=files)


SURVIVED, FAILED = 3, 4
WRITERS_END = (1, 120)
"""How a writer process ends whose rank is gone: it says so, or finds its pipe closed."""
ACTIONS = {
    "save": save,
    "save-0": partial(save_two, 0, save_synchronously),
    "save-1": partial(save_two, 1, save_synchronously),
    "background-0": partial(save_two, 0, save_in_background),
    "frozen": save_frozen,
    "frozen-0": partial(save_two, 0, save_frozen_synchronously),
    "frozen-1": partial(save_two, 1, save_frozen_synchronously),
    "unchanged": save_unchanged,
    "delete": delete,
    "export": export,
}


def run_killed(action: str, folder: Path, at: int, when: str) -> bool:
    """Return whether the child was killed before it was done."""

    def strike(number: int, name: str) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        ACTIONS[action](folder, kit.WatchedFiles(**{when: strike}))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), f"operation {at}: exit status {status}"
    while True:  # the rank that the killed one has left behind, which is this process's now
        try:
            survivor = os.waitstatus_to_exitcode(os.wait()[1])
        except ChildProcessError:
            return status != 0
        expected = (0, SURVIVED, *(WRITERS_END if action.startswith("background") else ()))
        assert survivor in expected, f"operation {at}: the other rank ended with {survivor}"


def main() -> None:
    folder, action = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    # Orphans come to this process, so that none is still writing when its store is looked at.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    for when in ("before", "after"):
        for number in count():
            copy = folder / when / str(number)
            shutil.copytree(folder / "base", copy)
            if not run_killed(action, copy, number, when):
                break


main()
