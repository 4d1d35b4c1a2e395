"""A step beside the same torch calls by hand, and beside Accelerate, on the same card in turn."""

import gc
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from kit import (
    DEVICE,
    ON_GPU,
    OUT,
    Gpt,
    Tokens,
    adamw,
    holds,
    loss_of,
    make_job,
    say,
    sized,
    stepping,
    timed_s,
)
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from strategies import process_groups

WARM, MEASURED, ROUNDS = (8, 20, 2) if ON_GPU else (1, 2, 1)
Step = Callable[[], None]


def batches(size: dict[str, int], micro: int) -> Any:
    data = Tokens(size["vocabulary"], size["context"])
    while True:
        yield from DataLoader(data, micro, shuffle=True, drop_last=True, pin_memory=ON_GPU)


def hand(spread: Callable[[nn.Module], nn.Module], *, casts: bool) -> Any:
    def build(ranks: Any, size: dict[str, int], micro: int) -> Step:
        torch.manual_seed(0)
        model = spread(Gpt(**size).to(DEVICE))
        optimizer, source = adamw(model.parameters()), batches(size, micro)

        def step() -> None:
            tokens = next(source).to(DEVICE, non_blocking=True)
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=casts):
                loss = loss_of(model, tokens, "mean")
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    return build


def replicate(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def shard(model: nn.Module) -> nn.Module:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:  # type: ignore[union-attr]
        fully_shard(block, mp_policy=policy)
    return fully_shard(model, mp_policy=policy)


def accelerated(ranks: Any, size: dict[str, int], micro: int) -> Step:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=not ON_GPU, mixed_precision="bf16")
    torch.manual_seed(0)
    model = Gpt(**size)
    loader = DataLoader(Tokens(size["vocabulary"], size["context"]), micro, drop_last=True)
    model, optimizer, loader = accelerator.prepare(model, adamw(model.parameters()), loader)

    def endless() -> Any:
        while True:
            yield from loader

    source = endless()

    def step() -> None:
        loss = loss_of(model, next(source), "mean")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def ours(strategy: str) -> Any:
    def build(ranks: Any, size: dict[str, int], micro: int) -> Step:
        job = make_job(
            ranks,
            strategy,
            OUT / f"{strategy}-{size['width']}-{next(NUMBERS)}",
            model=lambda: Gpt(**size),
            train=Tokens(size["vocabulary"], size["context"]),
            precision="bf16",
            global_batch=micro,
            micro_batch=micro,
        )
        STAYING.append(job.run.lockstep.stay)
        return stepping(job)

    return build


NUMBERS = iter(range(1000))
STAYING: list[Callable[[], object]] = []
VARIANTS = {
    "DDP by hand": hand(replicate, casts=True),
    "relaunch ddp": ours("ddp"),
    "Accelerate": accelerated,
    "fully_shard by hand": hand(shard, casts=False),
    "relaunch fsdp": ours("fsdp"),
}


def waits(step: Step) -> float:
    """Return how often a step waits for the GPU, as far as torch's own mode sees."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        for _ in range(4):
            step()
        torch.cuda.set_sync_debug_mode(0)
    return sum("synchroniz" in str(one.message) for one in seen) / 4


def measured(name: str, ranks: Any, size: dict[str, int], micro: int) -> tuple[float, float, float]:
    """Return seconds a step, peak GiB and waits a step."""
    step = VARIANTS[name](ranks, size, micro)
    for _ in range(WARM):
        step()
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    seconds = timed_s(lambda: [step() for _ in range(MEASURED)]) / MEASURED
    peak = torch.cuda.max_memory_allocated() / 2**30 if ON_GPU else 0.0
    return seconds, peak, waits(step) if ON_GPU else 0.0


with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
    for label, micro in (("124M", 16), ("1B", 4)) if ON_GPU else (("124M", 2),):
        size, found = sized(label), {name: [] for name in VARIANTS}
        for _ in range(ROUNDS):
            for name in VARIANTS:
                found[name].append(measured(name, ranks, size, micro))
                while STAYING:
                    STAYING.pop()()
                gc.collect()
                if ON_GPU:
                    torch.cuda.empty_cache()
        middle = {
            n: [statistics.median(c) for c in zip(*rows, strict=True)] for n, rows in found.items()
        }
        for name, (seconds, peak, num_waits) in middle.items():
            say(f"{label}, {name}: a step", seconds * 1e3, "ms")
            say(f"{label}, {name}: peak", peak, "GiB")
            say(f"{label}, {name}: waits a step", num_waits)
        for mine, theirs, most in (
            ("relaunch ddp", "DDP by hand", 1.03),
            ("relaunch fsdp", "fully_shard by hand", 1.03),
            ("relaunch ddp", "Accelerate", 0.97),
        ):
            holds(f"{label}, {mine} / {theirs}", middle[mine][0] / middle[theirs][0], most)
            if ON_GPU and theirs != "Accelerate":
                ratio = middle[mine][1] / middle[theirs][1]
                holds(f"{label}, {mine} / {theirs}: peak", ratio, 1.02)
