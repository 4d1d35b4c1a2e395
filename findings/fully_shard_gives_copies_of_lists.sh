#!/usr/bin/env bash
# torch 2.13.0: what a block appends to a list that it is given is lost under fully_shard, without
# a word, on one rank too.
#
# A model hands one list to each of three blocks, and each appends a loss of its own, as auxiliary
# losses of experts are collected. Plainly, and with fully_shard on each block and on the root.
#
# One would guess: a list is a list; the caller finds three losses in it.
# What happens: where a tensor among a block's arguments requires a gradient, also one inside the
# list, fully_shard takes all arguments apart to put a node on these tensors, and calls the block
# with new containers. The first block gets the list itself (nothing in it requires a gradient yet),
# the others append to copies that nobody sees. A training whose loss is the sum of the list leaves
# out two of three terms.
# Seen:
#     plain: losses in the list: 3
#     fully_shard: losses in the list: 1
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


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x, losses):
        y = torch.tanh(self.layer(x))
        losses.append(y.square().mean())
        return y


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        losses = []
        for block in self.blocks:
            x = block(x, losses)
        return x, losses


torch.set_num_threads(1)
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (1,))
for name in ("plain", "fully_shard"):
    torch.manual_seed(0)
    net = Net()
    if name == "fully_shard":
        for block in net.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)
    _, losses = net(torch.randn(4, 8))
    print(f"{name}: losses in the list: {len(losses)}")
PY

venv/bin/torchrun --standalone --nproc-per-node 1 rank.py 2> errors | tee output || { cat errors; exit 1; }
grep -q "^plain: losses in the list: 3$" output
grep -q "^fully_shard: losses in the list: 1$" output
