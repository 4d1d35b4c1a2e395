"""What a save costs where nearly all is frozen: a base, and adapters of 0.2 % of it."""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch

from checkpointing import (
    BackgroundWriter,
    CheckpointStore,
    Fragment,
    FrozenTensors,
    LocalCommunicator,
    OwnShard,
    Snapshot,
    TensorSpec,
    start_save,
)

TRAINED_SHARE = 0.002
NUM_TENSORS = 224
"""As many of each kind: those of a model of 32 layers."""
MOMENTS = ("exp_avg", "exp_avg_sq")
_T = TypeVar("_T")


@dataclass(kw_only=True)
class Costs:
    """Of each save in turn."""

    stalls_s: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)
    """Of the training's thread in a stall: what else the machine does is not in it."""
    saves_s: list[float] = field(default_factory=list)
    sizes_bytes: list[int] = field(default_factory=list)


class Adapted:
    """A base in bf16, and adapters in fp32 with Adam's moments."""

    def __init__(self, mib: int) -> None:
        generator = torch.Generator().manual_seed(0)
        length = mib * 2**20 // 2 // NUM_TENSORS
        trained = max(1, int(length * TRAINED_SHARE))
        self.frozen = [
            _fragment(f"base.{i}", "param", torch.randn(length, generator=generator).bfloat16())
            for i in range(NUM_TENSORS)
        ]
        self.trained = [
            _fragment(f"adapter.{i}", key, torch.randn(trained, generator=generator))
            for i in range(NUM_TENSORS)
            for key in ("fp32", *MOMENTS)
        ]

    def snapshot(
        self, step: int, stored: FrozenTensors | None, own_shard: OwnShard | None = None
    ) -> Snapshot:
        """Return what is saved; without `stored` all of it is written with the rest."""
        part = None if stored is None else stored.divide(self.frozen, [stored.look(self.frozen)])
        rest = self.trained if part is not None else [*self.trained, *self.frozen]
        return Snapshot(
            step=step,
            specs=[fragment.spec for fragment in (*self.trained, *self.frozen)],
            fragments=rest,
            state={},
            created_by={},
            frozen=part,
            own_shard=own_shard,
        )

    def resting(self) -> "Adapted":
        """Return one with the same base, whose adapters nobody trains."""
        other = copy.copy(self)
        other.trained = [replace(one, data=one.data.clone()) for one in self.trained]
        return other

    def train(self) -> None:
        """Change what is trained, as a step does."""
        for fragment in self.trained:
            fragment.data.add_(1e-3)


def measure_frozen(folder: Path, mib: int, rounds: int) -> str:
    """Save a few times with and without objects; return a table.

    The two take turns, so that what else the machine does hits both.
    """
    work = Adapted(mib)
    stored, own_shard = FrozenTensors(), OwnShard()
    still = work.resting()
    idle, own_idle = FrozenTensors(), OwnShard()
    ways: dict[str, Callable[[int], Snapshot]] = {
        "all with the rest": lambda step: work.snapshot(step, None),
        "written once": lambda step: work.snapshot(step, stored, own_shard),
        "written once, nothing changed": lambda step: still.snapshot(step, idle, own_idle),
    }
    costs = {name: Costs() for name in ways}
    writers = {name: BackgroundWriter() for name in ways}
    for step in range(1, rounds + 2):
        for name, snapshot in ways.items():
            if "nothing" not in name:
                work.train()
            _save(CheckpointStore(folder / name), step, snapshot, writers[name], costs[name])
    for writer in writers.values():
        writer.close()
    trained_bytes = sum(fragment.size_bytes for fragment in work.trained)
    lines = [
        f"One rank, a frozen base of {mib} MiB in {NUM_TENSORS} tensors, and {trained_bytes} bytes "
        f"of what is trained with its state; medians of {rounds} saves after the first.",
        "",
        "| frozen tensors | first save | stall | a later save | stall | its processor time "
        "| bytes of it | of what is trained |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in costs.items():
        later_bytes = one.sizes_bytes[-1]
        lines.append(
            f"| {name} | {one.saves_s[0]:.2f} s | {one.stalls_s[0] * 1e3:.1f} ms "
            f"| {statistics.median(one.saves_s[1:]):.2f} s "
            f"| {statistics.median(one.stalls_s[1:]) * 1e3:.1f} ms "
            f"| {statistics.median(one.processor_s[1:]) * 1e3:.1f} ms "
            f"| {later_bytes} | {later_bytes / trained_bytes:.3f} x |"
        )
    return "\n".join(lines) + "\n"


def _save(
    store: CheckpointStore,
    step: int,
    snapshot: Callable[[int], Snapshot],
    writer: BackgroundWriter,
    costs: Costs,
) -> None:
    began = time.perf_counter()
    clocks = time.perf_counter, time.thread_time
    stall_s = [0.0, 0.0]

    def stalled(part: Callable[[], _T]) -> _T:
        since = [clock() for clock in clocks]
        done = part()
        for i, clock in enumerate(clocks):
            stall_s[i] += clock() - since[i]
        return done

    save = stalled(lambda: start_save(store, snapshot(step), LocalCommunicator(), writer))
    while not save.is_settled():
        time.sleep(0.001)
    stalled(save.commit)
    while not save.is_settled():
        time.sleep(0.001)
    saved = stalled(save.finish)
    costs.stalls_s.append(stall_s[0])
    costs.processor_s.append(stall_s[1])
    costs.saves_s.append(time.perf_counter() - began)
    costs.sizes_bytes.append(saved.size_bytes)
    if step > 1:
        store.delete(step - 1)


def _fragment(fqn: str, key: str, data: torch.Tensor) -> Fragment:
    dtype = "BF16" if data.dtype == torch.bfloat16 else "F32"
    spec = TensorSpec(fqn=fqn, key=key, shape=tuple(data.shape), dtype=dtype)
    return Fragment(spec=spec, start=0, end=len(data), data=data, is_steady=key in MOMENTS)
