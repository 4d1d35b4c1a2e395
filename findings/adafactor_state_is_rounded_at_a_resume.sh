#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: a resume rounds Adafactor's float32 state to bfloat16.
#
# One would guess: transformers' Adafactor keeps float32 state for bfloat16 weights, the checkpoint
# holds float32, and a resume goes on with it.
# What happens: torch's `Optimizer.load_state_dict` casts each tensor of state to the dtype of its
# parameter, so 16 of its 24 bits are lost. The next step casts it up again: nobody sees a bfloat16
# tensor afterwards, and nothing is told. The resumed training has other losses from its first
# update on:
#     kept:     torch.float32
#     saved:    torch.float32
#     loaded:   torch.bfloat16
#     loss 20 steps later: 1.41579 without a resume, 1.41599 with one
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0

cat > resume.py <<'PY'
import sys
from importlib.metadata import version

import torch
from transformers.optimization import Adafactor

def build():
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 16).bfloat16()
    options = {"relative_step": False, "scale_parameter": False, "beta1": 0.9}
    return model, Adafactor(model.parameters(), lr=1e-3, **options)

def train(model, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 16, generator=generator).bfloat16()
        loss = (model(x) - x).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()

print("transformers", version("transformers"), "torch", version("torch"))
model, optimizer = build()
train(model, optimizer, range(5))
torch.save([model.state_dict(), optimizer.state_dict()], "checkpoint.pt")
weights, state = torch.load("checkpoint.pt")
resumed, its_optimizer = build()
resumed.load_state_dict(weights)
its_optimizer.load_state_dict(state)
dtypes = {
    "kept": optimizer.state[model.weight]["exp_avg"].dtype,
    "saved": state["state"][0]["exp_avg"].dtype,
    "loaded": its_optimizer.state[resumed.weight]["exp_avg"].dtype,
}
for name, dtype in dtypes.items():
    print(f"{name}:".ljust(9), dtype)
without, with_one = (
    train(*pair, range(5, 25)) for pair in ((model, optimizer), (resumed, its_optimizer))
)
print(f"loss 20 steps later: {without:.5f} without a resume, {with_one:.5f} with one")
as_described = (
    [*dtypes.values()] == [torch.float32, torch.float32, torch.bfloat16] and without != with_one
)
print("as described" if as_described else "it has changed")
sys.exit(not as_described)
PY
OMP_NUM_THREADS=1 venv/bin/python resume.py
