"""What `Resumable` costs a loop of plain DDP: a step, and the stall of a save beside `Run`'s.

The loop is that of bench_step.py, with and without the lines of `Resumable`, in interleaved rounds.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from bench_step import (
    ACCUMULATION,
    MICRO_BATCH,
    NEVER,
    Step,
    ddp_by_hand,
    interleaved,
    ours,
)
from bench_table import load_average, machine, markdown_table
from step_models import MODELS, Task
from step_optimizers import adamw
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from launcher import Resumable
from launcher.contract.environment import RankEnvironment
from strategies import Ranks, process_groups

TARGET = 1.01
SAVE_EVERY = 8
NUM_SAVES = 12
CALLS_S: dict[str, list[float]] = defaultdict(list)
"""Processor time of each `run.step`, by loop."""
HAND, OWN, OWN_SAVING, RUN_SAVING = "DDP by hand", "own-loop", "own-loop-saving", "run-saving"


def resumable(name: str, save_every: str) -> Callable[[Ranks, Task], Step]:
    """Return what builds the loop of `ddp_by_hand` with `Resumable` around it."""

    def build(ranks: Ranks, task: Task) -> Step:
        torch.manual_seed(0)
        model = DistributedDataParallel(task.model())
        optimizer = adamw(model.parameters())
        data = task.samples()
        sampler: Any = DistributedSampler(data, ranks.world_size, ranks.rank)
        run = Resumable(
            model=model,
            optimizer=optimizer,
            loader=DataLoader(data, batch_size=MICRO_BATCH, sampler=sampler, drop_last=True),
            run_dir=Path(os.environ["BENCH_FOLDER"]) / name,
            save_every=save_every,
            log_every=1000,
        )
        batches = run.__enter__().batches(epochs=10**6)

        def step() -> None:
            for number in range(ACCUMULATION):
                _, (x, y) = next(batches)
                model.require_backward_grad_sync = number == ACCUMULATION - 1
                loss = F.cross_entropy(model(x), y)
                torch.autograd.backward(loss / ACCUMULATION)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            since_s = time.thread_time()
            run.step(loss=loss)
            CALLS_S[name].append(time.thread_time() - since_s)

        return step

    return build


def stalls(name: str) -> list[float]:
    """Return for how many seconds each save of a run held up the training."""
    text = (Path(os.environ["BENCH_FOLDER"]) / name / "events.jsonl").read_text()
    events = [json.loads(line) for line in text.splitlines()]
    return [event["stall_s"] for event in events if event["event"] == "saved"]


def main() -> None:
    """Measure, and print the table on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--own-loop", action="store_true", help="what scripts/bench_step passes on")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of each in a round")
    parser.add_argument("--width", type=int, default=288, help="of the network")
    given = parser.parse_args()
    task = Task(*MODELS["mlp"], given.width)
    torch.set_num_threads(1)
    environment = RankEnvironment.from_environ(os.environ)
    place: Any = {"rank": environment.rank, "world_size": environment.world_size}
    with process_groups(local_rank=environment.local_rank, **place) as ranks:
        shared: list[Any] = [ranks.is_coordinator and tempfile.mkdtemp(prefix="bench-own-loop-")]
        dist.broadcast_object_list(shared)
        os.environ["BENCH_FOLDER"] = shared[0]
        build = {HAND: ddp_by_hand, OWN: resumable(OWN, NEVER)}
        steps = {name: one(ranks, task) for name, one in build.items()}
        taken = interleaved(steps, given.rounds, given.steps)
        every = f"{SAVE_EVERY} steps"
        saving = {
            OWN_SAVING: resumable(OWN_SAVING, every)(ranks, task),
            RUN_SAVING: ours("ddp", save_every=every, called=RUN_SAVING)(ranks, task),
        }
        interleaved(saving, NUM_SAVES, SAVE_EVERY - 1)
        if ranks.is_coordinator:
            ratio = statistics.median(
                mine / theirs
                for mine, theirs in zip(taken[OWN].wall_s, taken[HAND].wall_s, strict=True)
            )
            reached = "reached" if ratio <= TARGET else "missed"
            shown = [f"{1000 * statistics.median(taken[name].wall_s):.1f}" for name in (HAND, OWN)]
            head = ["step", "by hand (ms)", "Resumable (ms)", "median ratio of a round", "target"]
            row = ["plain DDP", *shown, f"{ratio:.3f}", f"{TARGET} {reached}"]
            held = [
                f"{1000 * statistics.median(stalls(name)):.2f} ms ({len(stalls(name))} saves)"
                for name in (OWN_SAVING, RUN_SAVING)
            ]
            print(
                f"2 ranks of one thread. {machine('torch')} {load_average()} Medians of "
                f"{given.rounds} interleaved rounds.\n\n{markdown_table(head, [row])}\n\n"
                f"Of a step, run.step takes {1000 * statistics.median(CALLS_S[OWN]):.3f} ms of "
                "processor time.\n\n"
                f"A save holds up the training for {held[0]}, under run.prepare for {held[1]}.",
                flush=True,
            )
        dist.barrier()
        if ranks.is_coordinator:
            shutil.rmtree(shared[0], ignore_errors=True)  # a save may be on its way
        os._exit(0)


if __name__ == "__main__":
    main()
