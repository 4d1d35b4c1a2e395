#!/usr/bin/env bash
# torch 2.13.0: get_optimizer_state_dict before the first step changes the training.
#
# One would guess: `get_optimizer_state_dict` of torch.distributed.checkpoint.state_dict reads. A
# script that saves a checkpoint of step 0, or asks for the dictionary into which `dcp.load` reads
# and finds no checkpoint yet, trains as one that does not.
# What happens: where the optimizer has no state yet, the function makes it take a step with
# gradients of zero and a rate of zero. The weights stay, but Adam's count of steps is 1 before the
# training begins, so its correction for the first steps is that of one step later, in each step:
# the first update is 0.74 of what Adam makes of the same gradient. Three losses of the same
# training, and the count of steps after it:
#     not asked: [3.6226, 7.4680, 5.9923] count 3
#     asked:     [3.6226, 7.7377, 6.4109] count 4
# Nothing tells of it; the documentation of the function does not mention it.
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy

cat > asked.py <<'PY'
import sys

import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

def train(is_asked):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    if is_asked:
        get_optimizer_state_dict(model, optimizer)
    losses, first_update = [], None
    for step in range(3):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(round(loss.item(), 4))
        if step == 0:
            first_update = (model.weight.detach() - before).abs().mean().item()
    return losses, int(optimizer.state[model.weight]["step"]), first_update

print("torch", torch.__version__)
plain, plain_count, plain_update = train(False)
asked, asked_count, asked_update = train(True)
print("not asked:", plain, "count", plain_count)
print("asked:    ", asked, "count", asked_count)
print("first update, of what it would be:", round(asked_update / plain_update, 2))
as_described = (
    (plain_count, asked_count) == (3, 4)
    and plain[0] == asked[0]
    and abs(plain[1] - asked[1]) > 0.1
    and round(asked_update / plain_update, 2) == 0.74
)
print("as described" if as_described else "it has changed")
sys.exit(not as_described)
PY
venv/bin/python asked.py
