"""A run with Hugging Face's Trainer, which sends itself a notice where the test says.

    trainer_worker.py '{"notice": [1, "step", 7], "args": {...}, "patience": 2, "plain": true}'

"full": [1, 3] lets rank 1 find no room for a checkpoint from step 3 on. "dtype": of the weights.
        data_collator=collate,
With "plain" the same training comes first as it is without relaunch, undisturbed.
"""

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from launcher.bridges import RelaunchCallback

given = json.loads(sys.argv[1])
rank = int(os.environ.get("RANK", "0"))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.layers(x.to(next(self.parameters()).dtype))[:, 0]
        return {"loss": ((y - labels) ** 2).mean(), "logits": y}


class Notice(TrainerCallback):  # type: ignore[misc]
    """At the n-th call of a hook, SIGTERM to one rank."""

    def __init__(self) -> None:
        self.count = 0

    def _call(self, hook: str) -> None:
        if given.get("notice") and given["notice"][:2] == [rank, hook]:
            self.count += 1
            if self.count == given["notice"][2]:
                os.kill(os.getpid(), signal.SIGTERM)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._call("step")

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        self._call("substep")

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        self._call("evaluation")


class Printed(TrainerCallback):  # type: ignore[misc]
    """What the test compares: each step's loss and each evaluation's, in all digits."""

    def __init__(self, lead: str) -> None:
        self.lead = lead

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        for name in ("loss", "eval_loss"):
            if rank == 0 and name in logs:
                print(f"{self.lead} {name} {state.global_step} {logs[name]:.17g}", flush=True)


class Stream(IterableDataset[Any]):
    def __init__(self, samples: list[Any]) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[Any]:
        yield from self._samples


def collate(samples: list[Any]) -> dict[str, torch.Tensor]:
    """Stack; where it draws, every rank and step has another number of draws."""
    x = torch.stack([sample["x"] for sample in samples])
    if given.get("draws"):
        longest = max(len(sample["input_ids"]) for sample in samples)
        x = x + torch.rand(longest, 4)[:1]
    return {"x": x, "labels": torch.stack([sample["labels"] for sample in samples])}


class Full(Trainer):  # type: ignore[misc]
    """Finds no room on one rank for what each rank writes."""

    def _save_rng_state(self, *args: Any, **kwargs: Any) -> None:
        of_rank, since = given["full"]
        if rank == of_rank and self.state.global_step >= since:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super()._save_rng_state(*args, **kwargs)


def train(output: str, callbacks: list[Any], last: Callable[[Any], Any]) -> Any:
    numbers = torch.Generator().manual_seed(3)
    data = [
        {
            "x": torch.randn(4, generator=numbers),
            "labels": torch.randn((), generator=numbers),
            "input_ids": [0] * (number * 7 % 11 + 1),
        }
        for number in range(48)
    ]
    args = TrainingArguments(
        output_dir=output,
        per_device_train_batch_size=2,
        learning_rate=0.05,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        **given["args"],
    )
    if "patience" in given:
        callbacks.append(EarlyStoppingCallback(given["patience"]))
    kind = Full if given.get("full") else Trainer
    trainer = kind(
        model=Model().to(getattr(torch, given.get("dtype", "float32"))),
        args=args,
        train_dataset=data,
        eval_dataset=data[:12],
        data_collator=collate,
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=last(args))
    return trainer.state.global_step


def main() -> None:
    ours = [Notice(), Printed("ours"), RelaunchCallback()]
    if given.get("plain"):
        train("plain", [Printed("plain")], lambda args: None)
    step = train("out", ours, RelaunchCallback.last)
    if rank == 0:
        print("trained", step, flush=True)


if __name__ == "__main__":
    main()
