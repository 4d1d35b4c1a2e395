"""torch's own ways to save: torch.distributed.checkpoint and torch.save."""

import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

from .method import Blocking, Saved
from .workload import Workload


class Dcp(Blocking):
    name = "torch DCP, synchronous"

    def write(self, path: Path) -> None:
        dcp.save(self.work.named(), checkpoint_id=path)

    def load(self, path: Path) -> int:
        rank = self.work.rank
        dcp.load({f"r{rank}.{n}": t for n, t in self.work.buffers.items()}, checkpoint_id=path)
        return self.work.local_bytes


class DcpAsync(Blocking):
    """As it comes: a thread, and new memory for every save."""

    name = "torch DCP, async"

    def options(self) -> dict[str, Any]:
        return {}

    def save(self, path: Path) -> Saved:
        dist.barrier()
        began = time.perf_counter()
        future: Any = dcp.async_save(self.work.named(), checkpoint_id=path, **self.options())
        stall_s = time.perf_counter() - began
        slower_s = self.work.train_until(future.done)
        future.result()
        ended = time.perf_counter()
        return Saved(stall_s=stall_s, lost_s=stall_s + slower_s, save_s=ended - began)


class DcpStagerKept(DcpAsync):
    """With one stager, whose memory is used again."""

    name = "torch DCP, async, stager kept"

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        self.stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=False,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=False,
            )
        )

    def options(self) -> dict[str, Any]:
        return {"async_stager": self.stager}

    def close(self) -> None:
        self.stager.close()


class DcpProcess(DcpAsync):
    """With a process that writes, which imports torch and makes a group of its own."""

    name = "torch DCP, async, process"

    def options(self) -> dict[str, Any]:
        return {"async_checkpointer_type": AsyncCheckpointerType.PROCESS}


class TorchSave(Blocking):
    name = "torch.save and sync"

    def write(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        with (path / f"{self.work.rank}.pt").open("wb") as file:
            torch.save(self.work.tensors, file)
            file.flush()
            os.fsync(file.fileno())

    def load(self, path: Path) -> int:
        torch.load(path / f"{self.work.rank}.pt")
        return self.work.local_bytes
