#!/usr/bin/env bash
# deepspeed 0.19.8, torch 2.13.0: `latest` names a checkpoint that other ranks are still writing.
#
# One would guess: `engine.save_checkpoint` writes the file `latest` when every rank has saved its
# part. A job that is killed during a save is resumed from the checkpoint before.
# What happens: rank 0 writes `latest` when it has saved its own part, and waits for the others only
# after that. In the example rank 1's disk is slow and both ranks are killed during the second save.
# `latest` then names that checkpoint, which lacks the optimizer's part of rank 1. Each start that
# calls `load_checkpoint("out")` ends with FileNotFoundError, although the first checkpoint is whole
# and loads when it is named:
#     two  has the optimizer's parts of ranks ['0', '1']
#     four has the optimizer's parts of ranks ['0']
#     latest: four
#     load_checkpoint("out") ended: FileNotFoundError
#     load_checkpoint("out", tag="two") ended: loaded
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet deepspeed==0.19.8

cat > train.py <<'PY'
import os, sys, time
import deepspeed
import torch

what, rank = sys.argv[1], int(os.environ["RANK"])
model = torch.nn.Linear(8, 8)
engine, *_ = deepspeed.initialize(
    model=model,
    optimizer=torch.optim.Adam(model.parameters()),
    config={
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True,
    },
)

def train(steps):
    for _ in range(steps):
        engine.backward(engine(torch.randn(4, 8)).square().mean())
        engine.step()

def slow(save):
    def saved(*arguments, **options):
        time.sleep(3600)
        save(*arguments, **options)
    return saved

if what == "save":
    train(2)
    engine.save_checkpoint("out", tag="two")
    train(2)
    if rank == 1:
        torch.save = slow(torch.save)  # its disk
    engine.save_checkpoint("out", tag="four")
else:
    tag = None if what == "latest" else what
    try:
        engine.load_checkpoint("out", tag=tag)
        result = "loaded"
    except Exception as error:
        result = type(error).__name__
    if rank == 1:
        print(result, file=open(f"{what}.txt", "w"))
    os._exit(0)
PY

cat > preempt.py <<'PY'
import os, socket, subprocess, sys, time
from importlib.metadata import version
from pathlib import Path

def start(what):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    return [
        subprocess.Popen(
            [sys.executable, "train.py", what],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=2,
        )
        for rank in range(2)
    ]

def is_named(tag):
    latest = Path("out/latest")
    return latest.exists() and latest.read_text() == tag

def load(what):
    end = time.monotonic() + 300
    ranks = start(what)
    while not Path(f"{what}.txt").exists() and time.monotonic() < end:
        time.sleep(0.1)
    for process in ranks:
        process.kill()
        process.wait()
    return Path(f"{what}.txt").read_text().strip()

print("deepspeed", version("deepspeed"), "torch", version("torch"))
ranks = start("save")
end = time.monotonic() + 300
while not is_named("four") and time.monotonic() < end and all(p.poll() is None for p in ranks):
    time.sleep(0.1)
for process in ranks:
    process.kill()
    process.wait()
parts = {}
for tag in ("two", "four"):
    names = sorted(path.name for path in Path("out", tag).glob("zero_pp_rank_*"))
    parts[tag] = [name.split("_")[3] for name in names]
    print(f"{tag:4} has the optimizer's parts of ranks", parts[tag])
print("latest:", Path("out/latest").read_text())
results = [load("latest"), load("two")]
print('load_checkpoint("out") ended:', results[0])
print('load_checkpoint("out", tag="two") ended:', results[1])
as_described = (
    parts == {"two": ["0", "1"], "four": ["0"]}
    and is_named("four")
    and results == ["FileNotFoundError", "loaded"]
)
print("as described" if as_described else "it has changed")
sys.exit(not as_described)
PY
venv/bin/python preempt.py
