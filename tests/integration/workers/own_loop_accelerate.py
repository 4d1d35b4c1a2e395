"""An accelerate loop with accumulate, and Resumable around it."""

import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from launcher import Resumable

at = int(sys.argv[1]) if len(sys.argv) > 1 else 0
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3))
draws = torch.Generator().manual_seed(1)
inputs = torch.randn(48, 6, generator=draws)
data = TensorDataset(inputs, torch.randint(0, 3, (48,), generator=draws))
loader = DataLoader(data, batch_size=4, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
torch.manual_seed(100 + accelerator.process_index)
made = {"model": model, "optimizer": optimizer, "schedulers": [scheduler], "loader": loader}
with Resumable.of(accelerator, **made, log_every=1) as run:
    for _, (x, y) in run.batches(epochs=3):
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        run.step(loss=loss)
        is_here = accelerator.sync_gradients and accelerator.is_local_main_process
        if is_here and at == run.steps_done and not Path("left").exists():
            Path("left").touch()
            os.kill(os.getpid(), signal.SIGTERM)
print(f"after the loop: {run.steps_done} steps")
