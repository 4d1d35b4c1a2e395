"""Kill a save to an object store around its n-th call, for every n, each in a copy of one store.

    python object_kill_driver.py FOLDER [frozen]

With "frozen" the save writes an object for its frozen tensors.

FOLDER/base holds the objects to copy. The kill before call n is in FOLDER/before/<n>, the one after
it in FOLDER/after/<n>; the last one of each was not killed.
"""

import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

import kit
import torch
from object_kit import Failing

from checkpointing import CheckpointStore, FrozenTensors, place_at
from checkpointing.storage import object_files

object_files.WHOLE_BYTES = 500  # the shard goes in parts, the owner in one


def run_killed(folder: Path, at: int, when: str) -> bool:
    """Return whether the child was killed before it was done."""

    def strike(number: int, name: str, path: str) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        place = place_at(f"file://{folder}")
        files = Failing(place, **{"before": lambda *call: None, when: strike})
        store = CheckpointStore(place.folder, files, block_bytes=kit.BLOCK_BYTES)
        store.sweep()
        if sys.argv[2:] == ["frozen"]:
            kit.save_frozen(store, 2, kit.frozen_state(2), FrozenTensors())
        else:
            kit.save_state(store, 2, kit.sample_state(2))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), f"call {at}: exit status {status}"
    return status != 0


torch.set_num_threads(1)
for when in ("before", "after"):
    for number in count():
        copy = Path(sys.argv[1]) / when / str(number)
        shutil.copytree(Path(sys.argv[1]) / "base", copy)
        if not run_killed(copy, number, when):
            break
