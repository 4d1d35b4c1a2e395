"""A loop of Lightning Fabric with Resumable around it; a rank may be asked to leave at a step."""

import os
import signal
import sys
from pathlib import Path

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from launcher import Resumable

at = int(sys.argv[1]) if len(sys.argv) > 1 else 0
ranks = int(os.environ.get("WORLD_SIZE", "1"))
strategy = "ddp" if ranks > 1 else "auto"
fabric = lightning.Fabric(accelerator="cpu", devices=ranks, strategy=strategy)
fabric.launch()
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3))
draws = torch.Generator().manual_seed(1)
data = TensorDataset(
    torch.randn(48, 6, generator=draws), torch.randint(0, 3, (48,), generator=draws)
)
adamw = torch.optim.AdamW(net.parameters(), lr=0.01)
model, optimizer = fabric.setup(net, adamw)
loader = fabric.setup_dataloaders(DataLoader(data, batch_size=4, shuffle=True))
with Resumable(model=model, optimizer=optimizer, loader=loader, log_every=1) as run:
    for _, (x, y) in run.batches(epochs=3):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        run.step(loss=loss)
        if at == run.steps_done and fabric.global_rank == 0 and not Path("left").exists():
            Path("left").touch()
            os.kill(os.getpid(), signal.SIGTERM)
print(f"after the loop: {run.steps_done} steps")
