"""Offloaded ZeRO with the CPU as the accelerator; rank 0 writes the final weights and norms.

usage: offload_worker.py OUT PRECISION

On a CPU the option is refused, because everything is in the host's memory already. What DeepSpeed
does when it offloads is done there too: masters, gradients and steps go other ways through its
code. So the refusal is taken away here.
"""

import math
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from task import make_job, train, weights_of

from launcher.contract.environment import RankEnvironment
from strategies import EMA, BuildOptions, Penalty, process_groups

torch.set_num_threads(1)
out, precision = Path(sys.argv[1]), sys.argv[2]
ZERO = ("zero1", "zero2", "zero3")
KEYS = ("fp32", "ema", "exp_avg", "exp_avg_sq", "param", "buffer")
ALL = {
    "log_every": 1,
    "precision": precision,
    "penalty": Penalty(l1=1e-3, l2=1e-2, names=("*.weight",)),
    "ema": EMA(decay=0.9),
    "unfreeze": {"blocks.*": 3},
}
BuildOptions.require = lambda self, strategy, device_type: None
environment = RankEnvironment.from_environ(os.environ)
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:

    def go(name, *legs):
        for strategy, steps, offload in legs:
            job = make_job(ranks, strategy, out / name, offload=offload, **ALL)
            if offload:
                assert job._strategy._layout.is_offloaded
                assert "offload_optimizer" in job._strategy._config()["zero_optimization"]
            train(job, steps)
        if ranks.is_coordinator:
            save_file(dict(weights_of(out / name, 8, KEYS)), out / f"{name}.safetensors")

    class Unfit:
        """A job whose losses are infinite in the third step on rank 1."""

        def __init__(self, job):
            self._job = job
            self.run = job.run

        def __iter__(self):
            for step in self._job:
                backward = step.backward

                def spoiled(loss, count, number=step.number, backward=backward):
                    unfit = number == 2 and ranks.rank == 1
                    backward(loss * (math.inf if unfit else 1.0), count)

                step.backward = spoiled
                yield step

        step = property(lambda self: self._job.step)
        model = property(lambda self: self._job.model)

    def spoil(name, strategy, offload):
        job = make_job(ranks, strategy, out / name, offload=offload, **ALL)
        train(Unfit(job), 8)
        if ranks.is_coordinator:
            save_file(dict(weights_of(out / name, 8, KEYS)), out / f"{name}.safetensors")

    if precision == "fp32":
        spoil("spoiled-ddp", "ddp", False)
    for strategy in ZERO:
        spoil(f"spoiled-{strategy}", strategy, True)
        if precision == "bf16":
            spoil(f"spoiled-{strategy}-plain", strategy, False)
        go(strategy, (strategy, 8, False))
        go(f"{strategy}-offloaded", (strategy, 8, True))
    if precision == "fp32":
        go("ddp", ("ddp", 8, False))
        go("chain", ("zero1", 2, True), ("ddp", 2, False), ("zero3", 2, True), ("zero2", 2, True))
