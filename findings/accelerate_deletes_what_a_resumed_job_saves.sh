#!/usr/bin/env bash
# accelerate 1.15.0, torch 2.13.0: a resumed job's checkpoints are deleted as the oldest, and each
# later start goes on from the same old one.
#
# One would guess: with `automatic_checkpoint_naming=True`, `save_state()` and `load_state()` without
# a folder take care of names: a start loads the newest checkpoint, its saves are numbered on from
# there, and `total_limit=2` keeps the two newest.
# What happens: the number is 0 again in each process, and `load_state()` does not change that.
# What a resumed job saves is `checkpoint_0`, `checkpoint_1`, ... beside the `checkpoint_3` and
# `checkpoint_4` of the first start. Oldest and newest go by the number: the limit deletes the
# resumed job's saves, and `load_state()` takes `checkpoint_4` in every start. In the example each
# start takes steps and saves after each, and its only weight counts the steps:
#     start 1: loaded step None, took 5 steps, left checkpoint_3 (step 4), checkpoint_4 (step 5)
#     start 2: loaded step 5, took 3 steps, left checkpoint_2 (step 8), checkpoint_4 (step 5)
#     start 3: loaded step 5, took 1 steps, left checkpoint_0 (step 6), checkpoint_4 (step 5)
#     start 4: loaded step 5, took 1 steps, left checkpoint_0 (step 6), checkpoint_4 (step 5)
# Nothing is raised; the deletion is told by a warning, without a name.
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 accelerate==1.15.0

cat > train.py <<'PY'
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from safetensors.torch import load_file

steps = int(sys.argv[1])
accelerator = Accelerator(
    cpu=True,
    project_config=ProjectConfiguration(
        project_dir="out", automatic_checkpoint_naming=True, total_limit=2
    ),
)
model = torch.nn.Linear(1, 1, bias=False)
torch.nn.init.zeros_(model.weight)
model = accelerator.prepare(model)
checkpoints = Path("out/checkpoints")
loaded = None
if checkpoints.is_dir():
    accelerator.load_state()
    loaded = int(model.weight)
for _ in range(steps):
    with torch.no_grad():
        model.weight += 1
    accelerator.save_state()
left = [
    f"{path.name} (step {int(load_file(path / 'model.safetensors')['weight'])})"
    for path in sorted(checkpoints.iterdir())
]
print(f"loaded step {loaded}, took {steps} steps, left {', '.join(left)}")
PY

cat > starts.py <<'PY'
import subprocess, sys
from importlib.metadata import version

print("accelerate", version("accelerate"), "torch", version("torch"), flush=True)
found = []
for number, steps in enumerate((5, 3, 1, 1), 1):
    command = [sys.executable, "-W", "ignore", "train.py", str(steps)]
    found.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    print(f"start {number}: {found[-1]}", flush=True)
as_described = found == [
    "loaded step None, took 5 steps, left checkpoint_3 (step 4), checkpoint_4 (step 5)",
    "loaded step 5, took 3 steps, left checkpoint_2 (step 8), checkpoint_4 (step 5)",
    "loaded step 5, took 1 steps, left checkpoint_0 (step 6), checkpoint_4 (step 5)",
    "loaded step 5, took 1 steps, left checkpoint_0 (step 6), checkpoint_4 (step 5)",
]
print("as described" if as_described else "it has changed")
sys.exit(not as_described)
PY
venv/bin/python starts.py
