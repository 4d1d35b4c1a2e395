#!/usr/bin/env bash
# torch 2.13.0: on one rank, where nothing is reduced, fully_shard changes the bits of a gradient.
#
# A model encodes its input once and hands the result to four blocks, as a decoder does with the
# encoder's output. Each block reads it `uses` times. The same model is taken plainly and with
# fully_shard on each block and on the root, on one rank of a CPU mesh, in fp32, with one thread.
#
# One would guess: on one rank sharding moves memory and changes no number.
# What happens: with one use in a block the gradients are equal bit for bit; with two, those of all
# layers before the blocks are not. Plain autograd adds the gradients of the encoded tensor one by
# one as they come. fully_shard passes the inputs of a sharded module through one node of its own,
# which waits until all gradients inside the module have been added, and hands on their sum: the
# same numbers are added in other groups. So a model whose blocks share an input (cross-attention,
# a position bias) has other last bits under fully_shard before any collective.
# Seen:
#     1 use in each block: encoder's gradients equal: True, blocks' gradients equal: True
#     2 uses in each block: encoder's gradients equal: False, blocks' gradients equal: True
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6

cat > rank.py <<'PY'
import copy

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


class Block(nn.Module):
    def __init__(self, uses):
        super().__init__()
        self.reads = nn.ModuleList(nn.Linear(16, 16) for _ in range(uses))

    def forward(self, x, encoded):
        for read in self.reads:
            x = x + torch.tanh(read(encoded))
        return x


class Net(nn.Module):
    def __init__(self, uses):
        super().__init__()
        self.encode = nn.Linear(16, 16)
        self.blocks = nn.ModuleList(Block(uses) for _ in range(4))

    def forward(self, x):
        encoded = self.encode(x)
        for block in self.blocks:
            x = block(x, encoded)
        return x.square().mean()


torch.set_num_threads(1)
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (1,))
for uses in (1, 2):
    torch.manual_seed(0)
    plain, x = Net(uses), torch.randn(32, 16)
    sharded = copy.deepcopy(plain)
    for block in sharded.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    for model in (plain, sharded):
        model(x).backward()
    equal = {True: True, False: True}
    for (name, one), other in zip(plain.named_parameters(), sharded.parameters()):
        equal[name.startswith("encode")] &= torch.equal(one.grad, other.grad.to_local())
    print(
        f"{uses} use{'s' * (uses > 1)} in each block: encoder's gradients equal: {equal[True]}, "
        f"blocks' gradients equal: {equal[False]}"
    )
PY

venv/bin/torchrun --standalone --nproc-per-node 1 rank.py 2> errors | tee output || { cat errors; exit 1; }
grep -q "^1 use in each block: encoder's gradients equal: True, blocks' gradients equal: True$" output
grep -q "^2 uses in each block: encoder's gradients equal: False, blocks' gradients equal: True$" output
