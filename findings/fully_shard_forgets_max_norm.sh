#!/usr/bin/env bash
# torch 2.13.0: nn.Embedding(max_norm=...) leaves its weight as it was under fully_shard.
#
# An embedding whose rows are to have a norm of at most 1, trained for three steps with SGD, plainly
# and under fully_shard, on one rank.
#
# One would guess: sharding does not change what a layer of torch's own does to its weight.
# What happens: the layer shortens the rows that it reads in place, in its forward. Under fully_shard
# that is the gathered copy, which is freed afterwards; the shard, which the optimizer steps and a
# checkpoint holds, keeps its long rows. The outputs look right (their norm is at most 1), so nothing
# shows it, but the optimizer steps from other weights, and weights on disk break the limit.
# Seen:
#     plain: longest row of the weight after 3 steps: 0.51
#     fully_shard: longest row of the weight after 3 steps: 4.42
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6

cat > rank.py <<'PY'
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

torch.set_num_threads(1)
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (1,))
for name in ("plain", "fully_shard"):
    torch.manual_seed(0)
    layer = nn.Embedding(10, 16, max_norm=1.0)
    if name == "fully_shard":
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        layer(torch.arange(10)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    weight = layer.weight.full_tensor() if name == "fully_shard" else layer.weight
    longest = weight.detach().norm(dim=1).max().item()
    print(f"{name}: longest row of the weight after 3 steps: {longest:.2f}")
PY

venv/bin/torchrun --standalone --nproc-per-node 1 rank.py 2> errors | tee output || { cat errors; exit 1; }
grep -q "^plain: longest row of the weight after 3 steps: 0\." output
grep -q "^fully_shard: longest row of the weight after 3 steps: [2-9]\." output
