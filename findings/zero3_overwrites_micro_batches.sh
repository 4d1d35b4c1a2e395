#!/usr/bin/env bash
# deepspeed 0.19.8, torch 2.13.0: ZeRO stage 3 keeps only the last micro-batch of a step where the
# loss is computed with the model itself and not by calling the engine.
#
# One would guess: `engine.backward(loss)` and `engine.step()` are called for each micro-batch, so
# the gradients of both are added up, whether the loss came from `engine(batch)`, from
# `engine.module(batch)` or from another method of the model, `engine.loss(batch)`. So it is in
# stages 1 and 2. If stage 3 cannot, there is an error.
# What happens: stage 3 begins to add when `engine(...)` is called after the first backward of a
# step. Until then each micro-batch's gradient is written over that of the one before. The step is
# taken with the last micro-batch alone, still divided by the number of micro-batches. There is
# neither an error nor a warning. Gradient norms of two micro-batches on two ranks, with gloo on the
# CPU:
#     plain torch:                  both 0.2692, the second alone 0.2091
#     stages 1 and 2, all ways:     0.2692
#     stage 3, engine(batch):       0.2692
#     stage 3, the other two ways:  0.2091
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet deepspeed==0.19.8

cat > norms.py <<'PY'
import logging, sys, warnings
from importlib.metadata import version

warnings.simplefilter("ignore")  # what is warned of in general, in any of the ways
import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import logger

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(4, 8)
        self.second = torch.nn.Linear(8, 1)
    def loss(self, batch):
        return self.second(torch.tanh(self.first(batch))).square().mean()
    def forward(self, batch):
        return self.loss(batch)

class Record(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

WAYS = {
    "engine(batch)": lambda engine, batch: engine(batch),
    "engine.module(batch)": lambda engine, batch: engine.module(batch),
    "engine.loss(batch)": lambda engine, batch: engine.loss(batch),
}

def under_zero(stage, way):
    """Return the gradient norm of one step of two micro-batches."""
    model = Model()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.1),
        config={
            "train_micro_batch_size_per_gpu": 3,
            "gradient_accumulation_steps": 2,
            "zero_optimization": {"stage": stage},
        },
    )
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", FutureWarning)  # torch about collectives, in all ways
        for micro_batch in DATA:
            engine.backward(WAYS[way](engine, micro_batch[dist.get_rank()]))
            engine.step()
    said.extend(str(warning.message) for warning in warned)
    assert engine.global_steps == 1
    return float(engine.get_global_grad_norm())

def plain(*micro_batches):
    """Return the same without DeepSpeed: the ranks' data in one batch."""
    model = Model()
    for number in micro_batches:
        (model(DATA[number].flatten(0, 1)) / 2).backward()
    return float(torch.nn.utils.get_total_norm(p.grad for p in model.parameters()))

# Else DeepSpeed compiles an extension for its collectives on a CPU.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
logger.setLevel(logging.WARNING)
said = []
logger.addHandler(Record(logging.WARNING))
deepspeed.init_distributed("gloo")
DATA = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(1))  # micro-batch, rank, ...
both, last = plain(0, 1), plain(1)
found = {(stage, way): under_zero(stage, way) for stage in (1, 2, 3) for way in WAYS}
close = lambda one, other: abs(one - other) < 1e-4
as_described = not said and not close(both, last) and all(
    close(norm, last if stage == 3 and way != "engine(batch)" else both)
    for (stage, way), norm in found.items()
)
if dist.get_rank() == 0:
    print("deepspeed", version("deepspeed"), "torch", version("torch"))
    print(f"plain torch: both {both:.4f}, the second alone {last:.4f}")
    for (stage, way), norm in found.items():
        print(f"stage {stage}, {way}: {norm:.4f}")
    print("warnings:", said)
    print("as described" if as_described else "it has changed")
dist.destroy_process_group()
sys.exit(not as_described)
PY
export DS_ACCELERATOR=cpu OMP_NUM_THREADS=1
timeout 300 venv/bin/python -m torch.distributed.run --standalone --nproc-per-node 2 norms.py
