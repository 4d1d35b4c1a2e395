#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: a Trainer that is preempted often enough never stops early.
#
# One would guess: with EarlyStoppingCallback(early_stopping_patience=5) a training whose metric does
# not improve ends after 5 evaluations more, also if it is resumed from its checkpoints meanwhile:
# trainer_state.json holds the callback's count.
# What happens: the count is written and not read. It starts at 0 after each
# `resume_from_checkpoint=True`, unless `restore_callback_states_from_checkpoint=True` was given. In
# the example the metric never changes, and there is an evaluation and a save after each step:
#     in one go: stopped at step 6
#     preempted every 3 steps: at step 3, 6, 9, 12, 15; counts in the checkpoints: 2, 3, 3, 3, 3
# Nothing is told.
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0

cat > train.py <<'PY'
import os, sys

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

class Constant(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
    def forward(self, x, labels):
        return {"loss": (self.weight * 0 + 1).sum(), "logits": self.weight.expand(len(x))}

class Preempted(TrainerCallback):
    """Ends the process once a step is saved."""
    def on_save(self, args, state, control, **_):
        if state.global_step == int(sys.argv[2]):
            os._exit(0)

folder = sys.argv[1]
is_resumed = os.path.isdir(folder)
data = [{"x": torch.zeros(1), "labels": torch.tensor(0.0)} for _ in range(64)]
trainer = Trainer(
    model=Constant(),
    args=TrainingArguments(
        folder, max_steps=60, per_device_train_batch_size=1, use_cpu=True,
        eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=False,
        logging_strategy="no", report_to=[], disable_tqdm=True,
    ),
    train_dataset=data,
    eval_dataset=data[:1],
    callbacks=[EarlyStoppingCallback(early_stopping_patience=5), Preempted()],
)
trainer.train(resume_from_checkpoint=is_resumed or None)
trainer.state.save_to_json(f"{folder}/end.json")
PY

cat > starts.py <<'PY'
import json, subprocess, sys
from importlib.metadata import version
from pathlib import Path

def start(folder, until):
    command = [sys.executable, "train.py", folder, str(until)]
    subprocess.run(command, check=True, stdout=2, timeout=300)

def state(path):
    found = json.loads(Path(path).read_text())
    callback = found["stateful_callbacks"]["EarlyStoppingCallback"]
    return found["global_step"], callback["attributes"]["early_stopping_patience_counter"]

print("transformers", version("transformers"), "torch", version("torch"))
start("one", 0)
stopped, _ = state("one/end.json")
print("in one go: stopped at step", stopped)
steps, counts = [], []
for until in (3, 6, 9, 12, 15):
    start("many", until)
    step, count = state(f"many/checkpoint-{until}/trainer_state.json")
    steps.append(step)
    counts.append(count)
print("preempted every 3 steps: at step", *steps, "counts in the checkpoints:", *counts)
as_described = (
    stopped == 6
    and steps == [3, 6, 9, 12, 15]
    and counts[0] == 2
    and max(counts) < 5
    and not Path("many/end.json").exists()
)
print("as described" if as_described else "it has changed")
sys.exit(not as_described)
PY
venv/bin/python starts.py
