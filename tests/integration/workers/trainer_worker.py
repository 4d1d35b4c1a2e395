"""A run with Hugging Face's Trainer, which sends itself a notice where the test says.

    trainer_worker.py '{"notice": [1, "step", 7], "args": {...}, "patience": 2, "plain": true}'

With "plain" the same training comes first as it is without relaunch, undisturbed.
"""

import json
import os
import signal
import sys

import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from launcher.bridges import RelaunchCallback

given = json.loads(sys.argv[1])
rank = int(os.environ.get("RANK", "0"))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 1))

    def forward(self, x, labels):
        y = self.layers(x)[:, 0]
        return {"loss": ((y - labels) ** 2).mean(), "logits": y}


class Notice(TrainerCallback):
    """At the n-th call of a hook, SIGTERM to one rank."""

    def __init__(self):
        self.count = 0

    def _call(self, hook):
        if given.get("notice") and given["notice"][:2] == [rank, hook]:
            self.count += 1
            if self.count == given["notice"][2]:
                os.kill(os.getpid(), signal.SIGTERM)

    def on_step_begin(self, *_, **__):
        self._call("step")

    def on_substep_end(self, *_, **__):
        self._call("substep")

    def on_prediction_step(self, *_, **__):
        self._call("evaluation")


class Printed(TrainerCallback):
    """What the test compares: each step's loss and each evaluation's, in all digits."""

    def __init__(self, lead):
        self.lead = lead

    def on_log(self, args, state, control, logs=None, **_):
        for name in ("loss", "eval_loss"):
            if rank == 0 and name in logs:
                print(f"{self.lead} {name} {state.global_step} {logs[name]:.17g}", flush=True)


def train(output, callbacks, last):
    numbers = torch.Generator().manual_seed(3)
    data = [
        {"x": torch.randn(4, generator=numbers), "labels": torch.randn((), generator=numbers)}
        for _ in range(48)
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
    trainer = Trainer(
        model=Model(), args=args, train_dataset=data, eval_dataset=data[:12], callbacks=callbacks
    )
    trainer.train(resume_from_checkpoint=last(args))
    return trainer.state.global_step


def main():
    ours = [Notice(), Printed("ours"), RelaunchCallback()]
    if given.get("plain"):
        train("plain", [Printed("plain")], lambda args: None)
    step = train("out", ours, RelaunchCallback.last)
    if rank == 0:
        print("trained", step, flush=True)


if __name__ == "__main__":
    main()
