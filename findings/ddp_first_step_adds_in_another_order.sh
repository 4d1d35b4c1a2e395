#!/usr/bin/env bash
# torch 2.13.0: on three ranks DistributedDataParallel's first step has other bits than its second.
#
# Three ranks, gloo, fp32. The model's layers are made in another order than they are used. Each rank
# computes the gradients of the same batch with the same weights three times; nothing is updated in
# between, and the threads are fixed to one.
#
# One would guess: the same input, weights and ranks give the same gradients each time, bit for bit.
# What happens: they do from the second time on. In the first step DDP sums everything in one bucket;
# before the second it lays its buckets in the order in which that backward made the gradients. The
# all-reduce of three ranks adds an element's three numbers in an order that follows from its place
# in the bucket. So a training that is resumed from a checkpoint repeats the same step with other last
# bits, although nothing is lost: in the new process it is the first. Two ranks do not show it, since
# two numbers have one sum.
# Seen:
#     2 ranks: gradients of the first step that differ from the second's: 0 of 8, of the second from the third's: 0 of 8
#     3 ranks: gradients of the first step that differ from the second's: 3 of 8, of the second from the third's: 0 of 8
# (how many of the 8 differ with three ranks depends on the numbers; that some do does not)
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


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.d, self.b, self.c, self.a = (nn.Linear(31, 31) for _ in range(4))

    def forward(self, x):
        for layer in (self.a, self.b, self.c, self.d):
            x = torch.tanh(layer(x))
        return x.square().sum()


torch.set_num_threads(1)
dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(Net())
x = torch.randn(8, 31, generator=torch.Generator().manual_seed(dist.get_rank()))
seen = []
for _ in range(3):
    model.zero_grad()
    model(x).backward()
    seen.append([p.grad.clone() for p in model.parameters()])
if dist.get_rank() == 0:
    first, later = (
        sum(not torch.equal(a, b) for a, b in zip(seen[i], seen[i + 1])) for i in (0, 1)
    )
    print(
        f"{dist.get_world_size()} ranks: gradients of the first step that differ from the second's: "
        f"{first} of {len(seen[0])}, of the second from the third's: {later} of {len(seen[0])}"
    )
dist.destroy_process_group()
PY
for ranks in 2 3; do
  OMP_NUM_THREADS=1 venv/bin/python -m torch.distributed.run --standalone --nproc-per-node $ranks \
    rank.py 2> "errors-$ranks" | tee "seen-$ranks" || { cat "errors-$ranks"; exit 1; }
done
grep -q "second's: 0 of 8, of the second from the third's: 0 of 8" seen-2
grep -Eq "second's: [1-8] of 8, of the second from the third's: 0 of 8" seen-3
