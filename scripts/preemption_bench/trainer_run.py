"""The same training with Hugging Face's Trainer, resumed as its documentation says."""

from pathlib import Path

import torch
import torch.nn.functional as F
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
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

given = arguments()


class Pairs(Dataset):
    def __init__(self) -> None:
        self.x, self.y = samples(given.steps, given.width)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net(given.width)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Counter(TrainerCallback):
    def __init__(self) -> None:
        self.taken = StepFile(given.folder)

    def on_optimizer_step(self, args, state, control, **_) -> None:
        self.taken.add(state.global_step + 1)


def newest_checkpoint(output: Path) -> str | None:
    """Return the newest checkpoint that a kill has not caught in the making.

    Trainer leaves a file in those that it makes just in time, but `get_last_checkpoint` and
    `resume_from_checkpoint=True` take them all the same, and then fail.
    """
    whole = [
        path
        for path in output.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if not (path / "checkpoint-is-incomplete.txt").exists()
    ]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default="")) or None


def main() -> None:
    output = given.folder / "output"
    trainer = Trainer(
        model=Model(),
        args=TrainingArguments(
            output_dir=str(output),
            max_steps=given.steps,
            per_device_train_batch_size=GLOBAL_BATCH // RANKS,
            learning_rate=LR,
            lr_scheduler_type="constant",
            max_grad_norm=MAX_GRAD_NORM,
            save_strategy="steps",
            save_steps=int(given.save_every),
            enable_jit_checkpoint=given.just_in_time,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        ),
        train_dataset=Pairs(),
        callbacks=[Counter()],
    )
    trainer.train(resume_from_checkpoint=newest_checkpoint(output))
    # It returns in the same way where it has saved just in time.
    if trainer.state.global_step >= given.steps:
        write_final(given.folder, trainer.model)


if __name__ == "__main__":
    main()
