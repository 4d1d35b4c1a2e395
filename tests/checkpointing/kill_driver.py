"""Kill a process around its n-th file operation, for every n, each in a copy of one store.

    python kill_driver.py FOLDER ACTION

FOLDER/base holds the store to copy. The kill before operation n is in FOLDER/before/<n>, the one
after it in FOLDER/after/<n>; the first attempt that is not killed is the last one. The children
are forks, because importing torch takes seconds.
"""

import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

import kit
import torch

from checkpointing import export_safetensors


def save(folder: Path, files: kit.WatchedFiles) -> None:
    kit.save_state(kit.store_at(folder, files), 2, kit.sample_state(2))


def delete(folder: Path, files: kit.WatchedFiles) -> None:
    kit.store_at(folder, files).delete(2)


def export(folder: Path, files: kit.WatchedFiles) -> None:
    with kit.store_at(folder).open(1) as reader:
        export_safetensors(reader, folder / "export", metadata={"n": "new"}, files=files)


ACTIONS = {"save": save, "delete": delete, "export": export}


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
    return status != 0


def main() -> None:
    folder, action = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    for when in ("before", "after"):
        for number in count():
            copy = folder / when / str(number)
            shutil.copytree(folder / "base", copy)
            if not run_killed(action, copy, number, when):
                break


main()
