#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: Trainer resumes from a checkpoint that it has marked incomplete.
#
# One would guess: while a just-in-time checkpoint is written, its folder holds the file
# "checkpoint-is-incomplete.txt". Where the machine goes away in that moment, the next start with
# `resume_from_checkpoint=True` sees the file and takes the checkpoint before.
# What happens: nothing reads that file. The marked folder has the highest number and is taken, and
# the start fails; the complete checkpoint beside it is not looked at. So does every other start of
# the same command, until somebody deletes the folder.
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0

cat > train.py <<'PY'
import os
import torch
from transformers import Trainer, TrainingArguments

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4000)
        self.second = torch.nn.Linear(4000, 4000)
        self.last = torch.nn.Linear(4000, 1)
    def forward(self, x, labels):
        y = self.last(self.second(self.first(x)))
        return {"loss": ((y[:, 0] - labels) ** 2).mean()}

data = [{"x": torch.randn(4), "labels": torch.tensor(1.0)} for _ in range(64)]
has_checkpoint = os.path.isdir("out") and os.listdir("out")
Trainer(
    model=Model(),
    args=TrainingArguments(
        output_dir="out", max_steps=2000, per_device_train_batch_size=4, use_cpu=True,
        enable_jit_checkpoint=True, save_strategy="steps", save_steps=5, save_total_limit=2,
        logging_strategy="no", report_to=[], disable_tqdm=True,
    ),
    train_dataset=data,
).train(resume_from_checkpoint=True if has_checkpoint else None)
PY

cat > preempt.py <<'PY'
import subprocess, sys, time
from importlib.metadata import version
from pathlib import Path

def wait_for(pattern, process, pause_s):
    end = time.monotonic() + 300
    while not list(Path("out").glob(pattern)) and process.poll() is None:
        if time.monotonic() > end:
            raise SystemExit(f"waited too long for {pattern}")
        time.sleep(pause_s)

print("transformers", version("transformers"), "torch", version("torch"))
process = subprocess.Popen([sys.executable, "train.py"], stdout=2, stderr=2)
wait_for("checkpoint-*/trainer_state.json", process, 0.01)
process.terminate()
wait_for("checkpoint-*/checkpoint-is-incomplete.txt", process, 0.0005)
process.kill()
process.wait()
whole, marked = [], []
for path in sorted(Path("out").glob("checkpoint-*")):
    (marked if (path / "checkpoint-is-incomplete.txt").exists() else whole).append(path)
for path in (*whole, *marked):
    print(path.name, "holds", sorted(file.name for file in path.iterdir()))
again = subprocess.run([sys.executable, "train.py"], capture_output=True, text=True, timeout=300)
print("the next start ended with", again.returncode)
print(again.stderr.strip().splitlines()[-1:])
as_described = bool(whole) and len(marked) == 1 and again.returncode != 0
print("as described" if as_described else "it has changed")
sys.exit(not as_described)
PY
venv/bin/python preempt.py
