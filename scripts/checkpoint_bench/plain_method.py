"""The least that has to be done: the same bytes, written and synced."""

import os
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

from .method import Blocking, Saved
from .results import PLAIN, PLAIN_BESIDE

BLOCK_BYTES = 16 * 1024 * 1024


class PlainWrite(Blocking):
    """Large writes, one sync, no checksum, nothing to say what it is."""

    name = PLAIN

    def write(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        fd = os.open(path / f"{self.work.rank}.bin", os.O_WRONLY | os.O_CREAT)
        for tensor in self.work.tensors.values():
            view = tensor.view(-1).view(torch.uint8).numpy().data
            for start in range(0, len(view), BLOCK_BYTES):
                os.write(fd, view[start : start + BLOCK_BYTES])
        os.fsync(fd)
        os.close(fd)
        folder = os.open(path, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def load(self, path: Path) -> int:
        fd = os.open(path / f"{self.work.rank}.bin", os.O_RDONLY)
        offset = 0
        for tensor in self.work.buffers.values():
            view = tensor.view(-1).view(torch.uint8).numpy().data
            while len(view):
                found = os.preadv(fd, [view[:BLOCK_BYTES]], offset)
                offset += found
                view = view[found:]
        os.close(fd)
        return offset


class PlainBeside(PlainWrite):
    """The same in a thread while the training goes on, as if nothing could change meanwhile."""

    name = PLAIN_BESIDE

    def save(self, path: Path) -> Saved:
        writer = threading.Thread(target=self.write, args=(path,))
        dist.barrier()
        began = time.perf_counter()
        writer.start()
        slower_s = self.work.train_until(lambda: not writer.is_alive())
        dist.barrier()
        save_s = time.perf_counter() - began
        return Saved(stall_s=0.0, lost_s=slower_s, save_s=save_s)

    def load(self, path: Path) -> int | None:
        """Loading is that of the other."""
        return None
