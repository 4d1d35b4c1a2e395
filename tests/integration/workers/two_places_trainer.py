"""Hugging Face's Trainer on a GPU that is pretended, or on the host; writes weights and waits.

usage: two_places_trainer.py OUT cuda|cpu
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from transformers import Trainer, TrainingArguments
from two_places import TwoPlaces  # type: ignore[import-not-found]

from launcher.bridges.hugging_face.callback import RelaunchCallback

out, place = Path(sys.argv[1]), sys.argv[2]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.outer(F.relu(self.inner(x)))
        return {"loss": F.cross_entropy(scores, labels), "logits": scores}


class Samples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(40, 6, generator=generator)
        self.y = torch.randint(0, 3, (40,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


dist.init_process_group("gloo")
with TwoPlaces() if place == "cuda" else nullcontext() as world:
    arguments: Any = TrainingArguments(
        output_dir=str(out / place),
        use_cpu=place == "cpu",
        per_device_train_batch_size=4,
        num_train_epochs=2,
        logging_steps=5,
        save_steps=6,
        eval_strategy="steps",
        eval_steps=7,
        report_to=[],
    )
    assert arguments.device.type == place
    torch.manual_seed(0)
    trainer = Trainer(
        model=Model(),
        args=arguments,
        train_dataset=Samples(),
        eval_dataset=Samples(),
        callbacks=[RelaunchCallback()],
    )
    torch.set_num_threads(1)  # an Accelerator on CPUs takes all
    trainer.train(resume_from_checkpoint=RelaunchCallback.last(arguments))
    told = {
        "weights": [one.cpu().flatten().tolist() for one in trainer.model.state_dict().values()],
        "waits": dict(world.waits) if world else {},
    }
(out / f"{place}.json").write_text(json.dumps(told))
