"""Penalty, late unfreezing and EMA under several strategies; rank 0 writes weights and words."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from task import Samples, make_job, train, weights_of

from launcher.contract.environment import RankEnvironment
from strategies import EMA, ConfigError, Penalty, process_groups

torch.set_num_threads(1)
out = Path(sys.argv[1])
environment = RankEnvironment.from_environ(os.environ)
KEYS = ("fp32", "ema", "exp_avg")
ALL = {
    "log_every": 1,
    "penalty": Penalty(l1=1e-3, l2=1e-2, names=("*.weight",)),
    "ema": EMA(decay=0.9),
    "unfreeze": {"blocks.*": 3},
}


def measure(model, batch):
    tokens, labels, _ = batch
    return {"loss": F.cross_entropy(model(tokens), labels, reduction="none")}


def tested(job):
    """The losses of the last weights and of the averages, as `test` finds them."""
    return [
        job.test(Samples(13), measure, which=which)["test/loss"]
        for which in ("last", "ema", "last")
    ]


with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:

    def write(name, folder):
        if ranks.is_coordinator:
            torch.save(dict(weights_of(folder, 8, KEYS)), out / f"{name}.pt")

    if ranks.world_size == 1:
        folder = out / "single"
        job = make_job(ranks, "single", folder, save_every="1 steps", keep=100, **ALL)
        train(job, 8)
        job.export("ema")
        write("single", folder)
        by_step = [dict(weights_of(folder, step, KEYS)) for step in range(1, 9)]
        torch.save(by_step, out / "by_step.pt")
        exported = load_file(folder / "export" / "model.safetensors")
        torch.save(exported, out / "exported.pt")
        job = make_job(ranks, "single", out / "single-ema", ema=EMA(decay=0.9))
        train(job, 8)
        (out / "tested-1.json").write_text(json.dumps(tested(job)))
        write("single-ema", out / "single-ema")
    else:
        # Held still under fsdp, and trained under ddp after the move.
        train(make_job(ranks, "fsdp", out / "moved", **ALL), 2)
        train(make_job(ranks, "ddp", out / "moved", **ALL), 6)
        write("moved", out / "moved")
        train(make_job(ranks, "accelerate", out / "accelerate", **ALL), 8)
        write("accelerate", out / "accelerate")
        train(make_job(ranks, "zero2", out / "moved-ema", ema=EMA(decay=0.9)), 4)
        job = make_job(ranks, "zero3", out / "moved-ema", ema=EMA(decay=0.9))
        train(job, 4)
        write("moved-ema", out / "moved-ema")
        (out / f"tested-{ranks.world_size}-{ranks.rank}.json").write_text(json.dumps(tested(job)))
        fsdp = make_job(ranks, "fsdp", out / "moved-ema", ema=EMA(decay=0.9))
        found = tested(fsdp)
        told = {"fsdp": found}
        # Under each stage by itself, and held still under one and trained under the others.
        for strategy in ("zero1", "zero2", "zero3"):
            train(make_job(ranks, strategy, out / strategy, **ALL), 8)
            write(strategy, out / strategy)
        chain = {"zero1": 2, "zero3": 2, "fsdp": 2, "zero2": 2}
        for strategy, steps in chain.items():
            train(make_job(ranks, strategy, out / "chain", **ALL), steps)
        write("chain", out / "chain")
        try:
            held = ALL | {"unfreeze": {"blocks.*": 4}}
            train(make_job(ranks, "ddp", out / "mixed", **held), 6)
            make_job(ranks, "zero1", out / "mixed")
        except ConfigError as error:
            told["mixed"] = str(error)
        for which in ("ema", "worst"):
            try:
                make_job(ranks, "fsdp", out / "moved").test(Samples(13), measure, which=which)
            except ConfigError as error:
                told[which] = str(error)
        try:
            without = make_job(ranks, "ddp", out / "plain")
            train(without, 2)
            asked = make_job(ranks, "ddp", out / "plain", ema=EMA())
            asked.test(Samples(13), measure, which="ema")
        except ConfigError as error:
            told["no average"] = str(error)
        # A script that no longer asks for the average drops it.
        train(make_job(ranks, "fsdp", out / "moved-ema"), 2)
        if ranks.is_coordinator:
            told["dropped"] = [n for n, _ in weights_of(out / "moved-ema", 10, ("ema",))]
            (out / "told.json").write_text(json.dumps(told))
