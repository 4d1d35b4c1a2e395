#!/usr/bin/env bash
# torch 2.13.0: under FSDP2 the gradient of a layer that is called on its own comes one step late.
#
# `fully_shard(model)` puts all layers into one group. Before each training step there is an
# evaluation, `model(...)` under no_grad, after which the root stays whole, as is its default. Then
# `model.embed(batch)` is called directly, and its output is what `model(...)` is called with.
#
# One would guess: the call works, so backward gives `embed` the gradient of this batch. If FSDP2
# cannot, there is an error, as there is without the evaluation before ("got mixed torch.Tensor and
# DTensor").
# What happens: FSDP2 reduces the group's gradients when backward has come to the input of the
# root's forward, and that of `embed` is computed after it. It stays in the internal whole
# parameter, and the next backward gives it out in place of its own. After the first step
# `embed.weight.grad` is None; from then on each step has the gradient of the step before. There is
# neither an error nor a warning. With `register_fsdp_forward_method` for a method that calls
# `embed`, all is as without FSDP2. Gradient norms of embed.weight in three steps, on two ranks,
# with gloo on the CPU:
#     without FSDP2:        0.1149  0.1606  0.0796
#     called directly:      none    0.1149  0.1606
#     a registered method:  0.1149  0.1606  0.0796
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6

cat > norms.py <<'PY'
import sys, warnings
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Linear(4, 8)
        self.head = torch.nn.Linear(8, 1)
    def encode(self, batch):
        return self.embed(batch)
    def forward(self, embedded):
        return self.head(torch.tanh(embedded))

def norm(grad):
    return None if grad is None else float(grad.norm())

def plain():
    """Return the gradient norms of (embed, head) of each step, the ranks' data in one batch."""
    model, norms = Model(), []
    for batch in DATA:
        model.zero_grad()
        model(model.encode(batch.flatten(0, 1))).square().mean().backward()
        norms.append((norm(model.embed.weight.grad), norm(model.head.weight.grad)))
    return norms

def sharded(*, registered, evaluates=True):
    """Return the same under FSDP2."""
    model, norms = Model(), []
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    if registered:
        register_fsdp_forward_method(model, "encode")
    for batch in DATA:
        model.zero_grad()
        if evaluates:
            with torch.no_grad():
                model(torch.zeros(3, 8))
        own = batch[dist.get_rank()]
        embedded = model.encode(own) if registered else model.embed(own)
        model(embedded).square().mean().backward()
        grads = (model.embed.weight.grad, model.head.weight.grad)
        norms.append(tuple(norm(None if g is None else g.full_tensor()) for g in grads))
    return norms

def text(norms):
    return "  ".join("none  " if value is None else f"{value:.4f}" for value in norms)

def same(found, expected):
    return all(
        a is b if None in (a, b) else abs(a - b) < 1e-4 for a, b in zip(found, expected, strict=True)
    )

dist.init_process_group("gloo")
DATA = torch.randn(3, 2, 3, 4, generator=torch.Generator().manual_seed(1))  # step, rank, ...
expected = plain()
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    direct = sharded(registered=False)
said = [str(warning.message) for warning in warned]
registered = sharded(registered=True)
try:
    sharded(registered=False, evaluates=False)
    refusal = ""
except RuntimeError as error:
    refusal = str(error)
embed, head = zip(*expected)
as_described = (
    not said
    and "got mixed torch.Tensor and DTensor" in refusal
    and same([e for e, _ in direct], (None, *embed[:-1]))
    and same([h for _, h in direct], head)
    and same([e for e, _ in registered], embed)
    and same([h for _, h in registered], head)
)
if dist.get_rank() == 0:
    print("torch", torch.__version__)
    for name, norms in (
        ("without FSDP2", expected), ("called directly", direct), ("a registered method", registered)
    ):
        print(f"{name}: embed {text(e for e, _ in norms)}, head {text(h for _, h in norms)}")
    print("warnings:", said)
    print("without an evaluation:", refusal)
    print("as described" if as_described else "it has changed")
dist.destroy_process_group()
sys.exit(not as_described)
PY
export OMP_NUM_THREADS=1
timeout 300 venv/bin/python -m torch.distributed.run --standalone --nproc-per-node 2 norms.py
