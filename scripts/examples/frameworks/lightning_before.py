"""Lightning's Trainer as its documentation shows it: a preemption costs what was not saved."""

import os

import torch
from lightning import pytorch as pl
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.1), nn.Linear(32, 1))

    def training_step(self, batch, index):
        x, y = batch
        loss = nn.functional.mse_loss(self.layers(x)[:, 0], y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main():
    pl.seed_everything(0)
    data = TensorDataset(torch.randn(256, 8), torch.randn(256))
    trainer = pl.Trainer(
        max_epochs=2,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(Net(), DataLoader(data, batch_size=8, shuffle=True))


if __name__ == "__main__":
    main()
