#!/usr/bin/env bash
# accelerate 1.15.0, torchdata 0.11.0, torch 2.13.0: a stateful loader resumes a shuffled epoch in another order.
#
# One would guess: with use_stateful_dataloader=True, `save_state` in the middle of an epoch and
# `load_state` in a new process give the rest of that epoch, since the loader says where it is.
# What happens: it gives as many batches as are left, in another order. The loader's state holds how
# many batches were given, not the order: torch's RandomSampler draws that at the epoch's begin from
# random numbers that no file holds. Samples come twice in the epoch, and as many never come; nothing
# is printed. With use_seedable_sampler=True as well the rest is right.
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 accelerate==1.15.0 torchdata==0.11.0

cat > train.py <<'PY'
import json, sys
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch.utils.data import DataLoader, TensorDataset

asked = DataLoaderConfiguration(
    use_stateful_dataloader=True, use_seedable_sampler="seedable" in sys.argv
)
accelerator = Accelerator(cpu=True, dataloader_config=asked)
torch.manual_seed(0)
model, loader = accelerator.prepare(
    torch.nn.Linear(1, 1), DataLoader(TensorDataset(torch.arange(12)), batch_size=2, shuffle=True)
)
if "again" in sys.argv:
    accelerator.load_state(sys.argv[1])
given = []
for number, (batch,) in enumerate(loader, 1):
    given += batch.tolist()
    if number == 3 and "again" not in sys.argv:
        accelerator.save_state(sys.argv[1])
print(json.dumps(given))
PY

cat > compare.py <<'PY'
import json, subprocess, sys
from importlib.metadata import version

def run(*arguments):
    command = [sys.executable, "train.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout.splitlines()[-1])

print(*(f"{name} {version(name)}" for name in ("accelerate", "torchdata", "torch")))
differs = {}
for kind in ("plain", "seedable"):
    whole, rest = run(kind, kind), run(kind, kind, "again")
    print(f"{kind}: the epoch {whole[:6]} | {whole[6:]}, resumed after the bar: {rest}")
    twice = sorted(set(whole[:6]) & set(rest))
    print(f"  twice: {twice}, never: {sorted(set(range(12)) - set(whole[:6]) - set(rest))}")
    differs[kind] = rest != whole[6:]
as_described = differs == {"plain": True, "seedable": False}
print("as described" if as_described else "it has changed")
sys.exit(not as_described)
PY
venv/bin/python compare.py
