"""Losses and optimizers that cannot be trained with; every rank writes what it was told.

With "alone", a strategy and a turn, rank 1 alone leaves parameters out from that turn of step 3 on,
and nothing is caught.
"""

import json
import math
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from task import Awkward, adamw, make_job

from launcher.contract.environment import RankEnvironment
from strategies import ConfigError, process_groups

torch.set_num_threads(1)
out, mode = Path(sys.argv[1]), sys.argv[2]
environment = RankEnvironment.from_environ(os.environ)
told = {}


def leave_out(model: torch.nn.Module) -> None:
    """Let a block's result not depend on its parameters."""
    found = dict(model.named_modules())
    name = next(name for name in found if name.endswith("blocks.1"))
    found[name].register_forward_hook(lambda module, args, result: 0 * args[0])


with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:

    def attempt(name, strategy, *, skips=False, factor=1.0, early=False):
        made = []

        def model():
            net = Awkward()
            if skips:
                leave_out(net)
            made.append(adamw_of(net))
            return net

        def adamw_of(net):
            return torch.optim.AdamW([p for p in net.parameters() if p.requires_grad])

        optimizer = (lambda _: made[0]) if early else adamw
        job = None
        try:
            job = make_job(
                ranks, strategy, out / f"{name}-{strategy}", model=model, optimizer=optimizer
            )
            for step in job:
                for tokens, labels, _ in step:
                    loss = F.cross_entropy(job.model(tokens), labels, reduction="sum")
                    step.backward(loss * factor, count=len(labels))
                break
            told[f"{name} {strategy}"] = None
        except ConfigError as error:
            told[f"{name} {strategy}"] = str(error)
        finally:
            if job is not None:
                # The loop was left alone here, on both ranks, and the process goes on to the next.
                job.run.lockstep.stay()

    if mode == "alone":
        job = make_job(ranks, sys.argv[3], out / "alone")
        for step in job:
            for turn, (tokens, labels, _) in enumerate(step):
                if (ranks.rank, step.number, turn) == (1, 3, int(sys.argv[4])):
                    leave_out(job.model)
                loss = F.cross_entropy(job.model(tokens), labels, reduction="sum")
                step.backward(loss, count=len(labels))
    for strategy in ("ddp", "fsdp", "zero1", "zero2", "zero3", "accelerate"):
        attempt("fit", strategy)
        attempt("untouched", strategy, skips=True)
    attempt("infinite", "ddp", factor=math.inf)
    attempt("early", "fsdp", early=True)
    (out / f"rank-{ranks.rank}.json").write_text(json.dumps(told))
