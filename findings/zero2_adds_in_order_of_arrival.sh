#!/usr/bin/env bash
# deepspeed 0.19.8, torch 2.13.0: ZeRO stage 2 adds the gradient of one parameter to that of another
# where two ranks call the layers of a model in another order.
#
# One would guess: gradients are averaged by parameter. A model whose forward follows its samples
# (two experts of one shape, in the order that the first sample decides) trains in stage 2 as in
# stage 1 and under DistributedDataParallel; if it cannot, there is an error.
# What happens: stage 2 puts each gradient into its bucket when the backward has it, and averages
# the buckets of the ranks place by place. In the example rank 1 calls the two layers in the other
# order, so its gradient of `one` is averaged with rank 0's of `other`, and the other way round.
# There is neither an error nor a warning. Norms of the averaged gradient of one step on two ranks,
# with gloo on the CPU:
#                   plain torch  stage 1  stage 2
#     one order:         0.2294     0.2294   0.2294
#     two orders:        0.1573     0.1573   0.1094
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet deepspeed==0.19.8

cat > orders.py <<'PY'
import logging, sys, warnings
from importlib.metadata import version

warnings.simplefilter("ignore")  # what is warned of in general, in any stage
import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import logger

class TwoLayers(torch.nn.Module):
    """A positive first number of the batch: `one` goes first; else `other` does."""
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one = torch.nn.Linear(8, 8)
        self.other = torch.nn.Linear(8, 8)
    def forward(self, batch):
        order = (self.one, self.other) if batch[0, 0] > 0 else (self.other, self.one)
        for layer in order:
            batch = torch.tanh(layer(batch))
        return batch.square().mean()

class Record(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

def data(signs):
    """Return a batch for each rank, whose first number has that rank's sign."""
    drawn = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
    drawn[:, 0, 0] = torch.tensor(signs)
    return drawn

def under_zero(stage, batches):
    """Return the gradient norm of one step."""
    model = TwoLayers()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.1),
        config={"train_micro_batch_size_per_gpu": 3, "zero_optimization": {"stage": stage}},
    )
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", FutureWarning)  # torch about collectives, in all stages
        engine.backward(engine(batches[dist.get_rank()]))
        engine.step()
    said.extend(str(warning.message) for warning in warned)
    return float(engine.get_global_grad_norm())

def plain(batches):
    """Return the same without DeepSpeed: the mean of both ranks' losses."""
    model = TwoLayers()
    (sum(model(batch) for batch in batches) / 2).backward()
    return float(torch.nn.utils.get_total_norm(p.grad for p in model.parameters()))

# Else DeepSpeed compiles an extension for its collectives on a CPU.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
logger.setLevel(logging.WARNING)
said = []
logger.addHandler(Record(logging.WARNING))
deepspeed.init_distributed("gloo")
same, swapped = data([1.0, 1.0]), data([1.0, -1.0])
found = {
    name: (plain(batches), under_zero(1, batches), under_zero(2, batches))
    for name, batches in (("one order", same), ("two orders", swapped))
}
close = lambda one, other: abs(one - other) < 1e-4
truth, first, second = found["two orders"]
as_described = (
    not said
    and all(close(norm, found["one order"][0]) for norm in found["one order"])
    and close(first, truth)
    and not close(second, truth)
)
if dist.get_rank() == 0:
    print("deepspeed", version("deepspeed"), "torch", version("torch"))
    for name, norms in found.items():
        print(f"{name}: plain torch {norms[0]:.4f}, stage 1 {norms[1]:.4f}, stage 2 {norms[2]:.4f}")
    print("warnings:", said)
    print("as described" if as_described else "it has changed")
dist.destroy_process_group()
sys.exit(not as_described)
PY
export DS_ACCELERATOR=cpu OMP_NUM_THREADS=1
timeout 300 venv/bin/python -m torch.distributed.run --standalone --nproc-per-node 2 orders.py
