"""Loops of several models, or with a loss over all ranks; a rank may be asked to leave at a step.

own_loop_several.py {gan,distill,contrast} {plain,ddp,fsdp,zero1,zero2} [STEP OF THE NOTICE]

Under DeepSpeed each network of the GAN is an engine.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional
from torch import nn
from torch.utils.data import TensorDataset

from launcher import GlobalBatches, Resumable

kind, wrap, *notice_at = sys.argv[1:]
all_gather: Any = torch.distributed.nn.functional.all_gather
if "RANK" in os.environ:
    dist.init_process_group("gloo")
rank = dist.get_rank() if dist.is_initialized() else 0


def net(seed: int, width: int) -> Any:
    """Return a small network; the teacher, which is not trained, every rank holds whole."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, width))
    if seed == 3:
        return model.requires_grad_(False)
    if wrap == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if wrap == "fsdp":
        from torch.distributed.fsdp import fully_shard

        fully_shard(model)
    return model


def engine(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    import deepspeed

    # It would be compiled, under a lock that a killed rank leaves behind for ever.
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    config = {
        "train_micro_batch_size_per_gpu": 8
        // (dist.get_world_size() if "RANK" in os.environ else 1),
        "gradient_clipping": 0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": int(wrap[-1])},
    }
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


def update(optimizer: Any, loss: torch.Tensor) -> torch.Tensor:
    if wrap.startswith("zero"):
        optimizer.backward(loss)
        optimizer.step()
        return loss.detach()
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach()


def gan(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        fake = models["made"](x)
    judged = update(optimizers["judge"], models["judge"](fake).mean() - models["judge"](x).mean())
    if wrap.startswith("zero"):  # an engine adds up what every backward leaves in its parameters
        models["judge"].requires_grad_(False)
    made = update(optimizers["made"], models["judge"](models["made"](x)).square().mean())
    if wrap.startswith("zero"):
        models["judge"].requires_grad_(True)
    return judged + made


def distill(x: torch.Tensor) -> torch.Tensor:
    return update(optimizers, (models["teacher"](x) - models["student"](x)).square().mean())


def contrast(x: torch.Tensor) -> torch.Tensor:
    features: Any = models(x)
    if dist.is_initialized():
        features = torch.cat(all_gather(features))  # in the order of the global batch
    likeness = features @ features.T
    return update(optimizers, nn.functional.cross_entropy(likeness, torch.arange(len(likeness))))


models: Any
optimizers: Any
if kind == "gan":
    models = {"made": net(1, 6), "judge": net(2, 1)}
    optimizers = {
        "made": torch.optim.AdamW(models["made"].parameters(), lr=0.01),
        "judge": torch.optim.SGD(models["judge"].parameters(), lr=0.01, momentum=0.9),
    }
    if wrap.startswith("zero"):
        models = {name: engine(one, optimizers[name]) for name, one in models.items()}
        optimizers = models
elif kind == "distill":
    models = {"teacher": net(3, 2), "student": net(4, 2)}
    optimizers = torch.optim.AdamW(models["student"].parameters(), lr=0.01)
else:
    models = net(5, 4)
    optimizers = torch.optim.AdamW(models.parameters(), lr=0.01)
inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(9))
loader = GlobalBatches(TensorDataset(inputs), 8)
one_step = {"gan": gan, "distill": distill, "contrast": contrast}[kind]
given: Any = None if optimizers is models else optimizers
with Resumable(model=models, optimizer=given, loader=loader, log_every=1) as run:
    for _, (x,) in run.batches(epochs=3):
        run.step(loss=one_step(x))
        leaver = Path("left")
        if notice_at and run.steps_done == int(notice_at[0]) and not leaver.exists():
            leaver.touch()
            os.kill(os.getpid(), signal.SIGTERM)
if dist.is_initialized():
    dist.destroy_process_group()
