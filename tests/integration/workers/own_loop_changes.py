"""A loop of its own that changes something once, at step 3: own_loop_changes.py KIND [notice]."""

import os
import signal
import sys

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from launcher import Resumable

KIND = sys.argv[1]
torch.manual_seed(0)
x = torch.randn(64, 4)
drop = nn.Dropout(0.1)
model = nn.Sequential(nn.Linear(4, 8), drop, nn.Linear(8, 1))
if KIND == "unfreeze":
    model[0].requires_grad_(False)
held = model[2].parameters() if KIND == "group" else model.parameters()
optimizer = torch.optim.AdamW(held, lr=1e-2)
loader = DataLoader(TensorDataset(x, x[:, :1]), batch_size=8, shuffle=True)
with Resumable(model=model, optimizer=optimizer, loader=loader, log_every=1) as run:
    for _, (x_, y) in run.batches(epochs=2):
        if run.steps_done == 3:
            if KIND == "rate":
                drop.p = 0.6
            elif KIND == "mode":
                model.eval()
            elif KIND == "unfreeze":
                model[0].requires_grad_(True)
            elif KIND == "group":
                optimizer.add_param_group({"params": model[0].parameters()})
        loss = F.mse_loss(model(x_), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.step(loss=loss)
        if run.steps_done == 6 and "notice" in sys.argv:
            os.kill(os.getpid(), signal.SIGTERM)
