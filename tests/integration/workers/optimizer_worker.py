"""Optimizers that keep all kinds of things, undisturbed and resumed; rank 0 writes the weights.

usage: optimizer_worker.py OUT STRATEGY[+STRATEGY],...
"""

import json
import math
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from task import Awkward, make_job, train, weights_of

from launcher.contract.environment import RankEnvironment
from strategies import ConfigError, process_groups

torch.set_num_threads(1)
STEPS = 8


class Keeper(torch.optim.Optimizer):
    """Momentum in bf16, counters of several types, and names made in the first step."""

    def __init__(self, params):
        defaults = {"lr": 0.02, "growth_rate": math.inf, "mode": None, "betas": (0.9, 0.99)}
        super().__init__(params, {**defaults, "running": torch.tensor(0.0), "scale": math.sqrt})
        self.num_steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.num_steps += 1
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            group["d"] = min(group.get("d", 0.25) * 1.3, group["growth_rate"])
            group["running"].add_(group["d"])
            assert isinstance(group["betas"], tuple)
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, group, self.state[p])

    def update(self, p, group, state):
        if not state:
            state["momentum"] = torch.zeros_like(p, dtype=torch.bfloat16)
            state["seen"] = torch.zeros((), dtype=torch.int64)
            state["product"] = torch.ones((), dtype=torch.float64)
            state["count"], state["rate"], state["last"] = 0, 1.0, None
        state["momentum"].mul_(group["betas"][0]).add_(p.grad.bfloat16())
        state["seen"].add_(1)
        state["product"].mul_(0.9)
        state["count"] += 1
        state["rate"] *= 0.95
        assert state["seen"].dtype == torch.int64
        assert state["product"].dtype == torch.float64
        assert isinstance(state["rate"], float)
        factor = state["rate"] * float(state["product"]) / math.sqrt(int(state["seen"]))
        factor *= group["scale"](group["d"]) / math.sqrt(group["step"] + float(group["running"]))
        p.sub_(state["momentum"].float(), alpha=group["lr"] * factor / math.sqrt(self.num_steps))


class Noisy(torch.optim.SGD):
    """Draws random numbers in its step."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.add_(0.01 * torch.randn_like(p))
        return super().step()


def factored(parameters):
    named = [p for _, p in parameters.named() if p.ndim == 2]
    rest = [p for _, p in parameters.named() if p.ndim != 2]
    return torch.optim.Adafactor([{"params": named}, {"params": rest}], lr=0.01)


FACTORIES = {
    "checkpointer": Keeper,
    "noisy": lambda parameters: Noisy(parameters, lr=0.05),
    "factored": factored,
}

out, strategies = Path(sys.argv[1]), sys.argv[2].split(",")
environment = RankEnvironment.from_environ(os.environ)
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for case, optimizer in FACTORIES.items():
        for named in strategies:
            folder, pieces = out / f"run-{case}-{named}", named.split("+")
            file = out / f"{case}-{named}-{ranks.world_size}"
            try:
                for strategy in pieces:
                    job = make_job(ranks, strategy, folder, model=Awkward, optimizer=optimizer)
                    train(job, STEPS // len(pieces))
            except ConfigError as error:
                if ranks.is_coordinator:
                    file.with_suffix(".json").write_text(json.dumps([job.step, str(error)]))
                job.run.lockstep.stay()
                continue
            if ranks.is_coordinator:
                save_file(
                    dict(weights_of(folder, STEPS, ("fp32",))), file.with_suffix(".safetensors")
                )
