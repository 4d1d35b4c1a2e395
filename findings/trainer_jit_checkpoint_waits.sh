#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: Trainer's just-in-time checkpoint begins 3 s after SIGTERM.
#
# One would guess: what `enable_jit_checkpoint` says about itself, "Required grace period >= longest
# iteration time + checkpoint save time". With steps of 20 ms and a checkpoint of a few kilobytes,
# 2 s between SIGTERM and SIGKILL would be plenty.
# What happens: the handler starts a timer of 3 s and the training goes on; only then is a
# checkpoint asked for. After a grace period of 2 s there is none, and all steps are lost. With a
# minute there is one, of a step that was taken about 3 s after the signal.
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0

cat > train.py <<'PY'
import sys, time
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)
    def forward(self, x, labels):
        time.sleep(0.02)
        return {"loss": ((self.linear(x)[:, 0] - labels) ** 2).mean()}

class Tell(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        with open(f"{args.output_dir}.step", "w") as file:
            file.write(str(state.global_step))

data = [{"x": torch.randn(4), "labels": torch.tensor(1.0)} for _ in range(64)]
Trainer(
    model=Model(),
    args=TrainingArguments(
        output_dir=sys.argv[1], max_steps=2000, per_device_train_batch_size=4, use_cpu=True,
        enable_jit_checkpoint=True, save_strategy="steps", save_steps=1000,
        logging_strategy="no", report_to=[], disable_tqdm=True,
    ),
    train_dataset=data,
    callbacks=[Tell()],
).train()
PY

cat > preempt.py <<'PY'
import os, signal, subprocess, sys, time
from importlib.metadata import version
from pathlib import Path

def step(name):
    path = Path(f"{name}.step")
    return int(path.read_text() or 0) if path.exists() else 0

def preempt(name, grace_s):
    """Return (step of the notice, seconds until the end, checkpoints)."""
    process = subprocess.Popen([sys.executable, "train.py", name], stdout=2, stderr=2)
    end = time.monotonic() + 120
    while step(name) < 50 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    told, at = time.monotonic(), step(name)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    seconds = time.monotonic() - told
    found = sorted(path.name for path in Path(name).glob("checkpoint-*"))
    print(f"grace {grace_s} s: SIGTERM at step {at}, ended after {seconds:.1f} s at step "
          f"{step(name)}, checkpoints: {found}")
    return at, seconds, found

print("transformers", version("transformers"), "torch", version("torch"))
at, _, short = preempt("short", 2)
at, seconds, long = preempt("long", 60)
as_described = not short and len(long) == 1 and seconds > 3 and int(long[0].split("-")[1]) > at + 20
print("as described" if as_described else "it has changed")
sys.exit(not as_described)
PY
venv/bin/python preempt.py
