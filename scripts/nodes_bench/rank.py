"""A rank: sums over all ranks ten times a second, notes it, and leaves when it is asked to.

The same file for both launchers, whose name is the second argument. Rank 0 appends time, ranks,
step, and when the youngest rank was started to `records`; it keeps each tenth step in `saved`, and
under relaunch the last one where it leaves on a SIGTERM.
"""

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from launcher import beat

SAVE_EVERY, STEP_S = 10, 0.1
CONTINUE = 75
folder = Path(sys.argv[1])
asked = False


def ask(*_: object) -> None:
    global asked
    asked = True


def save(step: int) -> None:
    draft = folder / "draft"
    draft.write_text(str(step))
    draft.replace(folder / "saved")


if "relaunch" in sys.argv[2:]:  # torchrun takes 75 for a failure; there SIGTERM ends the rank
    signal.signal(signal.SIGTERM, ask)
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
begun = torch.tensor(time.time(), dtype=torch.float64)
dist.all_reduce(begun, op=dist.ReduceOp.MAX)
rank, world_size = dist.get_rank(), dist.get_world_size()
step = int((folder / "saved").read_text()) if (folder / "saved").exists() else 0
while True:
    told = torch.tensor([float(asked), float((folder / "over").exists())])
    dist.all_reduce(told)
    if told[0] or told[1]:
        if rank == 0:
            save(step)
        dist.barrier()
        os._exit(CONTINUE if told[0] else 0)
    step += 1
    beat(step)
    if rank == 0:
        with (folder / "records").open("a") as file:
            file.write(f"{time.time()} {world_size} {step} {begun.item()}\n")
        if step % SAVE_EVERY == 0:
            save(step)
    time.sleep(STEP_S)
