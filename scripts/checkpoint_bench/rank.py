"""One of the two processes that save: every round takes each method once."""

import json
import os
import shutil
import time
from pathlib import Path

import torch
import torch.distributed as dist

from strategies import Ranks, process_groups

from .deepspeed_method import DeepSpeed
from .memory import PeakMemory, bytes_read, drop_cached
from .method import Method
from .plain_method import PlainBeside, PlainWrite
from .relaunch_methods import InBackground, Synchronous, WithCoresFree
from .results import WARM_COPY
from .torch_methods import Dcp, DcpAsync, DcpProcess, DcpStagerKept, TorchSave
from .workload import WORLD, Workload, largest

METHODS = (
    InBackground,
    WithCoresFree,
    Synchronous,
    Dcp,
    DcpAsync,
    DcpStagerKept,
    DcpProcess,
    TorchSave,
    DeepSpeed,
    PlainWrite,
    PlainBeside,
)


def run_rank(folder: Path, mib: int, rounds: int) -> None:
    """Measure; rank 0 prints one line of JSON for each method and round."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    with process_groups(rank=rank, local_rank=rank, world_size=WORLD) as ranks:
        measure_rounds(ranks, folder, mib, rounds)


def measure_rounds(ranks: Ranks, folder: Path, mib: int, rounds: int) -> None:
    """Take each method once in every round."""
    work = Workload(ranks, mib)
    methods: list[Method] = [method(work) for method in METHODS]
    for number in range(rounds + 1):  # round 0 warms up, and is the one in which memory is watched
        tell(number, WARM_COPY, stall_s=largest(work.warm_copy_s()))
        # There and back: nobody always comes after the same one and pays for what it has left.
        for method in methods if number % 2 == 0 else methods[::-1]:
            path = folder / f"{number}-{method.name.replace(' ', '-')}"
            measure = measure_memory if number == 0 else measure_time
            tell(number, method.name, **measure(method, path, work))
            dist.barrier()
            if work.rank == 0:
                shutil.rmtree(path)
            dist.barrier()
    for method in methods:
        method.close()


def measure_memory(method: Method, path: Path, work: Workload) -> dict[str, float]:
    """Save for the first time; return the extra memory in multiples of the local state."""
    dist.barrier()
    with PeakMemory() as memory:
        method.save(path)
    method.load(path)
    return {"extra_memory": largest(memory.extra_bytes / work.local_bytes)}


def measure_time(method: Method, path: Path, work: Workload) -> dict[str, float]:
    """Save and load; return seconds, bytes a second, and bytes read per byte needed."""
    work.calibrate()
    saved = method.save(path)
    found = {key: largest(value) for key, value in vars(saved).items()}
    found["save_bytes_per_s"] = work.local_bytes / found["save_s"]
    dist.barrier()
    if work.rank == 0:
        drop_cached(path)  # a run goes on on another machine, or after hours
    dist.barrier()
    began, before_bytes = time.perf_counter(), bytes_read()
    needed_bytes = method.load(path)
    read_bytes = bytes_read() - before_bytes
    dist.barrier()
    load_s = largest(time.perf_counter() - began)
    if needed_bytes is not None:
        found["load_bytes_per_s"] = work.local_bytes / load_s
        found["read_share"] = largest(read_bytes / needed_bytes)
    return found


def tell(number: int, name: str, **values: float) -> None:
    """Print a result, on one rank."""
    if dist.get_rank() == 0:
        print(json.dumps({"round": number, "name": name, **values}), flush=True)
