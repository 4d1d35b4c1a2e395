"""SOAP or Shampoo of pytorch-optimizer on gradients that do not depend on how they are summed up.

usage: soap_worker.py OUT STRATEGY[+STRATEGY],... STEPS SITE OPTIMIZER

The gradients are whole numbers: every order of their sums gives the same bits. SOAP makes something
else of other bits: its matrices have eigenvalues that lie close together, and the last bit decides
which vectors belong to them. What is left to differ is the step itself. STRATEGY may be "hybrid",
and SITE is a folder with the library.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

from launcher.contract.environment import RankEnvironment
from strategies import process_groups

task: Any = import_module("task")  # beside this file
torch.set_num_threads(1)
SHAPES = {"wide": (12, 10), "narrow": (9, 12), "bias": (12,)}
NUM_INPUTS, NUM_SAMPLES, BATCH = 32, 64, 16


def whole_numbers(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, shape, generator=generator).float()


class Linear(nn.Module):
    """Linear in its weights, so that their gradients are those of the samples alone."""

    def __init__(self) -> None:
        super().__init__()
        for seed, (name, shape) in enumerate(SHAPES.items()):
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
            for number, size in enumerate(shape):
                made = whole_numbers(NUM_INPUTS, size, seed=10 * seed + number)
                self.register_buffer(f"{name}_{number}", made, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(x))
        for name, shape in SHAPES.items():
            sides = [x @ getattr(self, f"{name}_{number}") for number in range(len(shape))]
            weighted = sides[0] @ getattr(self, name)
            out = out + (weighted if len(shape) == 1 else (weighted * sides[1]).sum(1))
        return out


FREQUENCY = {"SOAP": "precondition_frequency", "Shampoo": "preconditioning_compute_steps"}


def optimizer_of(parameters: Any) -> torch.optim.Optimizer:
    sys.path.append(sys.argv[4])
    kind = getattr(import_module("pytorch_optimizer"), sys.argv[5])
    options: dict[str, Any] = {FREQUENCY[sys.argv[5]]: 5}
    made: torch.optim.Optimizer = kind(parameters, lr=0.003, **options)
    return made


def job_of(ranks: Any, strategy: str, folder: Path) -> Any:
    more: dict[str, Any] = {}
    if strategy == "hybrid":
        strategy, more = "fsdp", {"hybrid_shard": True, "local_world_size": ranks.world_size // 2}
    return task.make_job(
        ranks,
        strategy,
        folder,
        model=Linear,
        optimizer=optimizer_of,
        train=TensorDataset(whole_numbers(NUM_SAMPLES, NUM_INPUTS, seed=99)),
        global_batch=BATCH,
        micro_batch=4,
        max_grad_norm=None,
        **more,
    )


def train(job: Any, steps: int) -> None:
    last = job.step + steps
    flag = job.run.preemption
    flag.requested = False
    try:
        for step in job:
            for (x,) in step:
                # Three times: engines divide by the number of ranks, which is exact then.
                step.backward(3 * job.model(x).sum(), count=len(x))
            flag.requested = step.number + 2 == last
    except task.Preempted:
        assert job.step == last


out, strategies, steps = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3])
environment = RankEnvironment.from_environ(os.environ)
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for named in strategies:
        folder, pieces = out / f"run-{named}-{ranks.world_size}", named.split("+")
        for strategy in pieces:
            train(job_of(ranks, strategy, folder), steps // len(pieces))
        if ranks.is_coordinator:
            found = dict(task.weights_of(folder, steps, ("fp32",)))
            save_file(found, out / f"{named}-{ranks.world_size}.safetensors")
