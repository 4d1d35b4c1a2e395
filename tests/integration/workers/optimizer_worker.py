"""Optimizers that keep all kinds of things, undisturbed and resumed; rank 0 writes the weights.

usage: optimizer_worker.py OUT STRATEGY[~WITH][+STRATEGY[~WITH]],... [STEPS CASE,...]

STRATEGY may be "hybrid": fsdp on two nodes. WITH is a name in MODIFIERS.
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
from strategies import EMA, ConfigError, process_groups

torch.set_num_threads(1)
STEPS = int(sys.argv[3]) if len(sys.argv) > 3 else 8


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


class Matrices(torch.optim.Optimizer):
    """Momentum made orthogonal for some matrices, and Adam for the rest: one class for both."""

    def __init__(self, parameters):
        named = list(parameters.named())
        inner = [p for name, p in named if p.ndim == 2 and "embed" not in name]
        rest = [p for name, p in named if p.ndim != 2 or "embed" in name]
        groups = [{"params": inner, "use_muon": True}, {"params": rest, "use_muon": False}]
        super().__init__(groups, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    update = self.muon if group["use_muon"] else self.adam
                    p.sub_(update(p.grad, self.state[p]), alpha=group["lr"])

    def muon(self, grad, state):
        momentum = state.setdefault("momentum", torch.zeros_like(grad)).lerp_(grad, 0.1)
        x = momentum if len(grad) <= grad.shape[1] else momentum.T
        x = x / (x.norm() + 1e-3)
        for _ in range(3):
            square = x @ x.T
            x = 2.0 * x - 1.5 * square @ x + 0.5 * square @ (square @ x)
        return x if len(grad) <= grad.shape[1] else x.T

    def adam(self, grad, state):
        state["step"] = state.get("step", 0) + 1
        first = state.setdefault("first", torch.zeros_like(grad)).lerp_(grad, 0.1)
        second = state.setdefault("second", torch.zeros_like(grad)).lerp_(grad.square(), 0.01)
        root = (second / (1 - 0.99 ** state["step"])).sqrt()
        return first / (1 - 0.9 ** state["step"]) / (root + 1e-4)


class Preconditioned(torch.optim.Optimizer):
    """As Shampoo does it: for a matrix a square matrix of each side, whose roots are applied."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.02})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(self.update(p.grad, self.state[p]), alpha=group["lr"])

    def update(self, grad, state):
        if grad.ndim != 2 or max(grad.shape) > 64:
            second = state.setdefault("second", torch.zeros_like(grad)).lerp_(grad.square(), 0.1)
            return grad / (second.sqrt() + 1e-2)
        squares = state.setdefault("sides", [torch.zeros(n, n) for n in grad.shape])
        squares[0].add_(grad @ grad.T)
        squares[1].add_(grad.T @ grad)
        return inverse_root(squares[0]) @ grad @ inverse_root(squares[1])


def inverse_root(square):
    """Return the power -1/4 of a damped symmetric matrix, which depends on it smoothly."""
    values, vectors = torch.linalg.eigh(square.double() + 0.1 * torch.eye(len(square)))
    return ((vectors * values.clamp_min(0.1) ** -0.25) @ vectors.T).float()


FACTORIES = {
    "matrices": Matrices,
    "checkpointer": Keeper,
    "noisy": lambda parameters: Noisy(parameters, lr=0.05),
    "factored": factored,
    "preconditioned": Preconditioned,
}
USUAL = ("matrices", "checkpointer", "noisy", "factored")
MODIFIERS = {
    "": {},
    "ema": {"ema": EMA(decay=0.9)},
    "unfreeze": {"unfreeze": {"wide*": 3}},
    "bf16": {"precision": "bf16"},
}


def job_of(ranks, named, folder, optimizer):
    """Prepare a job of the worker's model, under a strategy with or without more."""
    strategy, _, modifier = named.partition("~")
    more = dict(MODIFIERS[modifier])
    if strategy == "hybrid":
        strategy = "fsdp"
        more |= {"hybrid_shard": True, "local_world_size": ranks.world_size // 2}
    return make_job(ranks, strategy, folder, model=Awkward, optimizer=optimizer, **more)


out, strategies = Path(sys.argv[1]), sys.argv[2].split(",")
cases = sys.argv[4].split(",") if len(sys.argv) > 4 else USUAL
environment = RankEnvironment.from_environ(os.environ)
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for case in cases:
        optimizer = FACTORIES[case]
        for named in strategies:
            folder, pieces = out / f"run-{case}-{named}", named.split("+")
            file = out / f"{case}-{named}-{ranks.world_size}"
            try:
                for strategy in pieces:
                    job = job_of(ranks, strategy, folder, optimizer)
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
