"""DeepSpeed's own checkpoint, of a ZeRO-1 engine whose state has as many bytes."""

import os
import time
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from .method import Blocking, Saved
from .workload import SHARES, WORLD, Workload, sync_tree

BYTES_PER_PARAMETER = 12
"""fp32 weights and two moments, cut over the ranks; DeepSpeed saves the weights once more."""


class Weights(nn.Module):
    """Parameters of mixed, odd sizes; nothing is computed with them."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        unit = numel / sum(SHARES)
        self.weights = nn.ParameterList(torch.randn(int(unit * share) | 1) for share in SHARES)


class DeepSpeed(Blocking):
    """save_checkpoint returns before the bytes are durable: the sync counts for `save_s` only."""

    name = "DeepSpeed ZeRO-1"

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        # Or it compiles an extension, under a lock that a killed process leaves behind for ever.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        model = Weights(WORLD * work.mib * 2**20 // BYTES_PER_PARAMETER)
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-4),
            config={
                "train_micro_batch_size_per_gpu": 1,
                "zero_optimization": {"stage": 1},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
            },
        )

    def save(self, path: Path) -> Saved:
        dist.barrier()
        began = time.perf_counter()
        self.engine.save_checkpoint(str(path), tag="step")
        dist.barrier()
        stall_s = time.perf_counter() - began
        if self.work.rank == 0:
            sync_tree(path)
        dist.barrier()
        ended = time.perf_counter()
        return Saved(stall_s=stall_s, lost_s=stall_s, save_s=ended - began)

    def load(self, path: Path) -> int:
        self.engine.load_checkpoint(str(path), tag="step")
        return self.work.local_bytes
