"""A run with Lightning's Trainer, which sends itself a notice where the test says.

    lightning_worker.py '{"notice": [1, "step", 7], "trainer": {...}, "loader": "DataLoader"}'

"dtype": "bfloat16" is that of the weights, whose optimizer keeps float32.
With "plain" the same training comes first as it is without relaunch, undisturbed.
"""

import json
import os
import signal
import sys
from typing import Any

import torch
from lightning import pytorch as pl
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from launcher.bridges import RelaunchLightning, ResumableLoader

given = json.loads(sys.argv[1])
rank = int(os.environ.get("RANK", "0"))


class Momentum(torch.optim.Optimizer):
    """Keeps float32 state for any weights, which torch rounds when it is loaded."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.05})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        for p in self.param_groups[0]["params"]:
            mean = self.state[p].setdefault("mean", torch.zeros(p.shape))
            mean.lerp_(p.grad.float(), 0.1)
            p.copy_(p.float() - 0.05 * mean)
        return loss


class Model(pl.LightningModule):  # type: ignore[misc]
    def __init__(self, lead: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 1))
        self.to(getattr(torch, given.get("dtype", "float32")))
        self.lead = lead
        self.count = 0

    def _loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        x, y = batch
        loss: torch.Tensor = ((self.layers(x.to(self.dtype))[:, 0] - y) ** 2).mean()
        return loss

    def _notice(self, hook: str) -> None:
        if given.get("notice") and self.lead == "ours" and given["notice"][:2] == [rank, hook]:
            self.count += 1
            if self.count == given["notice"][2]:
                os.kill(os.getpid(), signal.SIGTERM)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        self._notice("step")
        loss = self._loss(batch)
        self.log("loss", loss.detach())
        if rank == 0:
            print(f"{self.lead} loss {self.trainer.global_step} {loss.item():.17g}", flush=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self._notice("evaluation")
        loss = self._loss(batch)
        self.log("val_loss", loss, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if rank == 0 and not self.trainer.sanity_checking:
            value = self.trainer.callback_metrics["val_loss"].item()
            print(f"{self.lead} val {self.trainer.global_step} {value:.17g}", flush=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if "dtype" in given:
            return Momentum(self.parameters())
        return torch.optim.AdamW(self.parameters(), lr=0.05)


def train(lead: str, callbacks: list[Any]) -> Any:
    torch.manual_seed(5)
    data = TensorDataset(torch.randn(48, 4), torch.randn(48))
    kind = DataLoader if given.get("loader") == "DataLoader" else ResumableLoader
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        strategy="ddp" if "WORLD_SIZE" in os.environ else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=callbacks,
        **given["trainer"],
    )
    trainer.fit(Model(lead), kind(data, batch_size=2, shuffle=True), DataLoader(data, batch_size=4))
    return trainer.global_step


if __name__ == "__main__":
    if given.get("plain"):
        train("plain", [])
    step = train("ours", [RelaunchLightning()])
    if rank == 0:
        print("trained", step, flush=True)
