"""Hugging Face's Trainer as its documentation shows it: a preemption costs what was not saved."""

import sys

import torch
from torch import nn
from transformers import Trainer, TrainingArguments


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.1), nn.Linear(32, 1))

    def forward(self, x, labels):
        out = self.layers(x)[:, 0]
        return {"loss": nn.functional.mse_loss(out, labels), "logits": out}


def main():
    torch.manual_seed(0)
    data = [{"x": torch.randn(8), "labels": torch.randn(())} for _ in range(256)]
    args = TrainingArguments(
        output_dir=sys.argv[1],
        num_train_epochs=2,
        per_device_train_batch_size=8,
        logging_steps=5,
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
    )
    trainer = Trainer(
        model=Net(),
        args=args,
        train_dataset=data,
    )
    trainer.train()


if __name__ == "__main__":
    main()
