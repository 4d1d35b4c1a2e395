"""The same training with Lightning, resumed with `ckpt_path="last"`. Runs in a venv of its own."""

import warnings

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from task import (
    GLOBAL_BATCH,
    LR,
    MAX_GRAD_NORM,
    RANKS,
    StepFile,
    arguments,
    net,
    samples,
    write_final,
)
from torch.utils.data import DataLoader, TensorDataset

given = arguments()


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = net(given.width)
        self.taken = StepFile(given.folder)

    def training_step(self, batch, _) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        self.taken.add(self.trainer.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=LR, weight_decay=0.0)


def main() -> None:
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    model = Model()
    checkpoint = ModelCheckpoint(
        dirpath=given.folder / "checkpoints",
        every_n_train_steps=int(given.save_every),
        save_top_k=1,
        save_last=True,
        save_on_exception=given.just_in_time,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=RANKS,
        strategy="ddp",
        max_epochs=-1,
        max_steps=given.steps,
        gradient_clip_val=MAX_GRAD_NORM,
        callbacks=[checkpoint],
        default_root_dir=given.folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = TensorDataset(*samples(given.steps, given.width))
    loader = DataLoader(data, batch_size=GLOBAL_BATCH // RANKS, shuffle=True)
    trainer.fit(model, loader, ckpt_path="last")
    if trainer.global_step >= given.steps:
        write_final(given.folder, model)


if __name__ == "__main__":
    main()
