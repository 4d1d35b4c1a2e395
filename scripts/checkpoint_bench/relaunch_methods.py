"""Relaunch's own two ways to save."""

import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from checkpointing import (
    BackgroundWriter,
    CheckpointStore,
    Fragment,
    Snapshot,
    TensorSpec,
    save_checkpoint,
    start_save,
    stripe,
)
from strategies import HostCommunicator

from .method import Blocking, Saved
from .workload import WORLD, Workload


class Synchronous(Blocking):
    name = "relaunch, synchronous"

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        self.talk = HostCommunicator(work.ranks)
        self.specs = [
            TensorSpec(fqn=f"r{rank}.{name}", key="fp32", shape=tuple(t.shape), dtype="F32")
            for rank in range(WORLD)
            for name, t in work.tensors.items()
        ]

    def write(self, path: Path) -> None:
        save_checkpoint(CheckpointStore(path), self.snapshot(), self.talk)

    def snapshot(self) -> Snapshot:
        num = len(self.work.tensors)
        mine = self.specs[self.work.rank * num :][:num]
        # As with Adam: one third weights, two thirds moments.
        fragments = [
            Fragment(
                spec=spec, start=0, end=spec.numel, data=tensor.view(-1), is_steady=index % 3 > 0
            )
            for index, (spec, tensor) in enumerate(
                zip(mine, self.work.tensors.values(), strict=True)
            )
        ]
        return Snapshot(step=1, specs=self.specs, fragments=fragments, state={}, created_by={})

    def load(self, path: Path) -> int:
        """Read what another distribution would need: the other half, cut at other places."""
        pieces = stripe(
            [spec.size_bytes for spec in self.specs],
            WORLD - 1 - self.work.rank,
            WORLD,
            itemsizes_bytes=[4] * len(self.specs),
        )
        needed_bytes = 0
        with CheckpointStore(path).open(1) as reader:
            for index, start, end in pieces:
                spec = self.specs[index]
                out = self.work.buffers[f"t{index % len(self.work.tensors)}"][: end - start]
                reader.read_into(spec.fqn, spec.key, start, end, out)
                needed_bytes += (end - start) * 4
        return needed_bytes


class InBackground(Synchronous):
    name = "relaunch, in the background"

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        self.writer = BackgroundWriter()

    def save(self, path: Path) -> Saved:
        dist.barrier()
        began = time.perf_counter()
        save = start_save(CheckpointStore(path), self.snapshot(), self.talk, self.writer)
        stalls_s, slower_s = [time.perf_counter() - began], 0.0

        def stand_still_for(action: Callable[[], object]) -> None:
            since = time.perf_counter()
            action()
            stalls_s.append(time.perf_counter() - since)

        for meet in (save.commit, save.finish):
            slower_s += self.work.train_until(
                save.is_settled, before_update=lambda: stand_still_for(save.release_tensors)
            )
            dist.barrier()  # a run goes on training until the slowest rank is done
            stand_still_for(meet)
        save_s, stall_s = time.perf_counter() - began, sum(stalls_s)
        return Saved(stall_s=stall_s, lost_s=stall_s + slower_s, save_s=save_s)

    def close(self) -> None:
        self.writer.close()


class WithCoresFree(InBackground):
    """As beside a GPU: the steps take their time, and leave the processor to the writers."""

    name = "relaunch, in the background, cores free"

    def save(self, path: Path) -> Saved:
        self.work.computes_elsewhere = True
        try:
            return super().save(path)
        finally:
            self.work.computes_elsewhere = False
