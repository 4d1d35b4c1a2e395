"""What a step costs: relaunch beside the same torch calls by hand, in interleaved rounds.

Both sides read the same number of samples through a DataLoader, accumulate over the same number
of micro-batches, clip the gradient's norm and step the same optimizer. Relaunch's side also
agrees with the other ranks at its boundary after every step. Every round takes each variant once,
so that whatever else the machine does hits all of them; the table has the medians, in what interval
the true median of the ratio lies in 19 of 20 starts, and the ratio of the processor time, which
hardly depends on what else the machine does.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator
from bench_table import machine, markdown_table
from step_models import MODELS, Task
from step_optimizers import adamw, muon
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from launcher.contract.environment import RankEnvironment
from launcher.contract.preemption import PreemptionFlag
from launcher.contract.run_options import RunOptions
from launcher.run_folder.folder import RunFolder
from launcher.training.rank_console import RankConsole
from launcher.training.run import Run
from launcher.training.start.opening import open_run
from strategies import EMA, Ranks, process_groups, training_batches
from strategies.data.batches import BatchPlan

MICRO_BATCH = int(os.environ.get("MICRO_BATCH", "32"))
ACCUMULATION = 2
BILLION = 10**9
Step = Callable[[], object]


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def loader(ranks: Ranks, task: Task) -> Iterator[Any]:
    data = task.samples()
    sampler = DistributedSampler(data, ranks.world_size, ranks.rank)
    return endless(DataLoader(data, batch_size=MICRO_BATCH, sampler=sampler, drop_last=True))


def by_hand(ranks: Ranks, task: Task, spread: Callable[[nn.Module], nn.Module]) -> Step:
    """DDP or fully_shard, as one writes it without a library."""
    torch.manual_seed(0)
    model = spread(task.model())
    optimizer = adamw(model.parameters())
    batches = loader(ranks, task)

    def step() -> None:
        for number in range(ACCUMULATION):
            x, y = next(batches)
            if isinstance(model, DistributedDataParallel):
                model.require_backward_grad_sync = number == ACCUMULATION - 1
            (F.cross_entropy(model(x), y) / ACCUMULATION).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def ddp_by_hand(ranks: Ranks, task: Task) -> Step:
    return by_hand(ranks, task, lambda net: DistributedDataParallel(net))


def fsdp_by_hand(ranks: Ranks, task: Task) -> Step:
    def spread(net: nn.Module) -> nn.Module:
        for blocks in net.children():
            if isinstance(blocks, nn.ModuleList):
                for block in blocks:
                    fully_shard(block)
        return fully_shard(net)

    return by_hand(ranks, task, spread)


def zero2_by_hand(ranks: Ranks, task: Task) -> Step:
    import deepspeed

    torch.manual_seed(0)
    model = task.model()
    # As our own strategy does: else it compiles, under a lock that a killed rank leaves for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=adamw(model.parameters()),
        config={
            "train_micro_batch_size_per_gpu": MICRO_BATCH,
            "gradient_accumulation_steps": ACCUMULATION,
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": 2},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
    )
    batches = loader(ranks, task)

    def step() -> None:
        for _ in range(ACCUMULATION):
            x, y = next(batches)
            engine.backward(F.cross_entropy(engine(x), y))
            engine.step()

    return step


def accelerate_by_hand(ranks: Ranks, task: Task) -> Step:
    """Accelerate's own loop: its loader, accumulate() and clipping."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATION)
    torch.set_num_threads(1)
    net = task.model()
    data = DataLoader(task.samples(), batch_size=MICRO_BATCH, shuffle=True, drop_last=True)
    model, optimizer, prepared = accelerator.prepare(net, adamw(net.parameters()), data)
    batches = endless(prepared)

    def step() -> None:
        for _ in range(ACCUMULATION):
            x, y = next(batches)
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

    return step


class Flag:
    """A preemption flag without signals."""

    requested = False
    cause = "the measurement"
    deadline = None


NEVER = "1000000 steps"


def ours(
    strategy: str,
    *,
    exact: bool = False,
    optimizer: Any = adamw,
    save_every: str = NEVER,
    called: str = "",
    ema: EMA | None = None,
) -> Callable[[Ranks, Task], Step]:
    def build(ranks: Ranks, task: Task) -> Step:
        environment = replace(
            RankEnvironment.from_environ(os.environ),
            run=RunOptions(strategy=strategy, exact=exact),
        )
        kind = f"{'exact-' if exact else ''}{'ema-' if ema is not None else ''}{strategy}"
        name = called or f"{kind}-{optimizer.__name__}"
        folder = RunFolder(Path(os.environ["BENCH_FOLDER"]) / name)
        flag, silent = cast(PreemptionFlag, Flag()), RankConsole(is_heard=False)
        run = Run(open_run(environment, ranks, flag, folder=folder, seed=0, console=silent))
        job = run.prepare(
            model=lambda: task.model(),
            optimizer=optimizer,
            train=task.samples(),
            global_batch=MICRO_BATCH * ACCUMULATION * ranks.world_size,
            micro_batch=MICRO_BATCH,
            epochs=10**6,
            max_grad_norm=1.0,
            ema=ema,
            save_every=save_every,
            evaluate_every=NEVER,
            log_every=1000,
            accelerator=Accelerator(cpu=True) if strategy == "accelerate" else None,
        )
        torch.set_num_threads(1)
        steps = iter(job)

        def step() -> None:
            for x, y in (current := next(steps)):
                loss = F.cross_entropy(job.model(x), y, reduction="sum")
                current.backward(loss, count=y.numel())

        return step

    return build


VARIANTS: dict[str, Callable[[Ranks, Task], Step]] = {
    "DDP by hand": ddp_by_hand,
    "relaunch ddp": ours("ddp"),
    "Accelerate by hand": accelerate_by_hand,
    "relaunch accelerate": ours("accelerate"),
    "fully_shard by hand": fsdp_by_hand,
    "relaunch fsdp": ours("fsdp"),
    "ZeRO-2 by hand": zero2_by_hand,
    "relaunch zero2": ours("zero2"),
    "relaunch exact-ddp": ours("ddp", exact=True),
    "relaunch exact-fsdp": ours("fsdp", exact=True),
    "relaunch muon-fsdp": ours("fsdp", optimizer=muon),
    "relaunch ema-ddp": ours("ddp", ema=EMA(decay=0.999)),
    "relaunch ema-fsdp": ours("fsdp", ema=EMA(decay=0.999)),
}
PAIRS = (
    ("relaunch ddp", "DDP by hand"),
    ("relaunch ddp", "Accelerate by hand"),
    ("relaunch accelerate", "Accelerate by hand"),
    ("relaunch fsdp", "fully_shard by hand"),
    ("relaunch zero2", "ZeRO-2 by hand"),
    ("relaunch exact-ddp", "relaunch ddp"),
    ("relaunch exact-fsdp", "relaunch fsdp"),
    ("relaunch muon-fsdp", "relaunch fsdp"),
    ("relaunch ema-ddp", "relaunch ddp"),
    ("relaunch ema-fsdp", "relaunch fsdp"),
)
KINDS = {mine.split()[-1]: (theirs, mine) for mine, theirs in reversed(PAIRS)}
"""What `--only` takes: each of ours, and the first that it is compared with."""
TARGET = 1.03
EXACT_TARGET = 1.15
"""With sums that do not depend on their order, beside relaunch without them."""
MUON_TARGET = 1.25
"""With Muon, which steps whole matrices, beside AdamW."""
EMA_TARGET = 1.01
"""With a moving average of the weights, beside the same without."""
TARGETS = {"exact": EXACT_TARGET, "muon": MUON_TARGET, "ema": EMA_TARGET}


@dataclass(frozen=True)
class Taken:
    """The seconds of a variant's step, in every round."""

    wall_s: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)
    """Of the coordinator's process."""


def interleaved(steps: dict[str, Step], rounds: int, num_steps: int) -> dict[str, Taken]:
    """Take each variant once a round."""
    taken = {name: Taken() for name in steps}
    for number in range(rounds + 1):
        # There and back: nobody always finds the caches as the same one has left them.
        for name in list(steps)[:: 1 if number % 2 else -1]:
            step = steps[name]
            step()  # a run finds its own code and tensors in the caches, not another's
            dist.barrier()
            began, processor_began = time.perf_counter(), time.process_time()
            for _ in range(num_steps):
                step()
            dist.barrier()
            if number:  # the first round warms up
                taken[name].wall_s.append((time.perf_counter() - began) / num_steps)
                processor_s = time.process_time() - processor_began
                taken[name].processor_s.append(processor_s / num_steps)
    dist.barrier()
    return taken


class Numbers:
    """A billion samples that take no room."""

    def __len__(self) -> int:
        return BILLION

    def __getitem__(self, index: int) -> int:
        return index


def seek_s(first_step: int) -> float:
    """Return the seconds until the first batch, from opening the data at a step."""
    plan = BatchPlan(num_samples=BILLION, global_batch=256, micro_batch=64, epochs=1, seed=0)
    began = time.perf_counter()
    next(training_batches(Numbers(), plan, first_step=first_step, rank=0, world_size=2))
    return time.perf_counter() - began


def ratios(mine: list[float], theirs: list[float]) -> list[float]:
    """Return the ratio of each round, in order of size."""
    return sorted(m / t for m, t in zip(mine, theirs, strict=True))


def shown_ratio(ordered: list[float]) -> str:
    """Return the median, and between what the true one lies in 19 of 20 starts."""
    # By signs, whatever the distribution: the number of values below it is binomial, of half.
    far = math.ceil(0.98 * math.sqrt(len(ordered)))
    middle = len(ordered) / 2
    low = ordered[max(0, math.floor(middle - far))]
    high = ordered[min(len(ordered), math.ceil(middle + far)) - 1]
    return f"{statistics.median(ordered):.3f} ({low:.3f} to {high:.3f})"


def table(taken: dict[str, Taken], seeks: dict[str, float], load: str, num_ranks: int) -> str:
    rounds = len(next(iter(taken.values())).wall_s)
    head = [
        *("step", "the other (ms)", "the first (ms)", "median ratio of a round (interval)"),
        *("of processor time", "target"),
    ]
    rows = []
    for mine, theirs in PAIRS:
        if mine not in taken or theirs not in taken:
            continue
        of_wall = ratios(taken[mine].wall_s, taken[theirs].wall_s)
        of_processor = ratios(taken[mine].processor_s, taken[theirs].processor_s)
        ratio = statistics.median(of_wall)
        shown = [f"{1000 * statistics.median(taken[name].wall_s):.1f}" for name in (theirs, mine)]
        shown += [shown_ratio(of_wall), shown_ratio(of_processor)]
        target = next((t for word, t in TARGETS.items() if word in mine), TARGET)
        reached = "reached" if ratio <= target else "missed"
        rows.append([f"{mine} / {theirs}", *shown, f"{target} {reached}"])
    found = "; ".join(f"{where}: {1000 * s:.2f} ms" for where, s in seeks.items())
    return (
        f"{num_ranks} ranks of one thread. {machine('torch', 'accelerate', 'deepspeed')} {load} "
        f"Medians of {rounds} interleaved rounds.\n\n{markdown_table(head, rows)}\n\n"
        f"Opening the data of 1e9 samples and reading the first micro-batch of 64, {found}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of each in a round")
    parser.add_argument("--width", type=int, default=256, help="of the network")
    parser.add_argument("--only", choices=list(KINDS), help="nothing else is in the process then")
    parser.add_argument("--save", type=Path, help="also write the table to this file")
    parser.add_argument("--model", choices=list(MODELS), default="mlp", help="of step_models.py")
    given = parser.parse_args()
    task = Task(*MODELS[given.model], given.width)
    torch.set_num_threads(1)
    environment = RankEnvironment.from_environ(os.environ)
    place = {"rank": environment.rank, "world_size": environment.world_size}
    with process_groups(local_rank=environment.local_rank, **place) as ranks:
        with tempfile.TemporaryDirectory(prefix="bench-step-") as mine:
            shared: list[Any] = [mine]
            dist.broadcast_object_list(shared)
            os.environ["BENCH_FOLDER"] = shared[0]
            names = VARIANTS if given.only is None else KINDS[given.only]
            steps = {name: VARIANTS[name](ranks, task) for name in names}
            taken = interleaved(steps, given.rounds, given.steps)
        if ranks.is_coordinator:
            places = {
                "at step 0": 0,
                "in the middle": BILLION // 512,
                "at the end": BILLION // 256 - 1,
            }
            seeks = {
                where: statistics.median(seek_s(step) for _ in range(5))
                for where, step in places.items()
            }
            elements = sum(parameter.numel() for parameter in task.model().parameters())
            busy = (
                f"Model {given.model} of width {given.width}, {elements:,} parameters. "
                f"Load average {os.getloadavg()[0]:.1f} at the end, ours included."
            )
            result = table(taken, seeks, busy, ranks.world_size)
            print(result, flush=True)
            if given.save is not None:
                given.save.write_text(result)
        # Every job still has its loop open: its end is that of the process.
        dist.barrier()
        os._exit(0)


if __name__ == "__main__":
    main()
