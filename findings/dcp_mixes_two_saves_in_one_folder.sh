#!/usr/bin/env bash
# torch 2.13.0: torch.distributed.checkpoint loads a mixture of two saves, without an error.
#
# One would guess: where a job saves into the same folder again and again and is killed during a
# save, `dcp.load` gives the save before, or an error: `.metadata`, which comes last and under its
# final name at once, says whether a checkpoint is whole.
# What happens: each rank writes over its own file in place, and the `.metadata` of the save before
# stays meanwhile. It fits the new files too, since shapes and places are the same. In the example
# all weights are 2 at the first save and 4 at the second; rank 1's disk is slow, and both ranks are
# killed. The second save warns that it overwrites. The next start loads rows of both saves, without
# an error or a warning:
#     files: ['.metadata', '__0_0.distcp', '__1_0.distcp']
#     loaded: [4.0, 4.0, 2.0, 2.0]
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy

cat > train.py <<'PY'
import json, os, sys, time
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

class SlowDisk(dcp.FileSystemWriter):
    def write_data(self, plan, planner):
        open("waits.txt", "w").close()
        time.sleep(3600)
        return super().write_data(plan, planner)

what, rank = sys.argv[1], int(os.environ["RANK"])
dist.init_process_group("gloo")
model = torch.nn.Linear(4, 4, bias=False)
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))

def fill(value):
    with torch.no_grad():
        model.weight.fill_(value)

if what == "save":
    fill(2.0)
    dcp.save(model.state_dict(), checkpoint_id="checkpoint")
    fill(4.0)
    is_slow = rank == 1
    writer = (SlowDisk if is_slow else dcp.FileSystemWriter)("checkpoint")
    dcp.save(model.state_dict(), storage_writer=writer)
else:
    fill(0.0)
    state = model.state_dict()
    dcp.load(state, checkpoint_id="checkpoint")
    rows = state["weight"].full_tensor()[:, 0].tolist()
    if rank == 0:
        with open("loaded.tmp", "w") as file:
            json.dump(rows, file)
        os.rename("loaded.tmp", "loaded.json")
    dist.destroy_process_group()
PY

cat > preempt.py <<'PY'
import json, os, socket, subprocess, sys, time
from importlib.metadata import version
from pathlib import Path

def start(what):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, "train.py", what],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]

print("torch", version("torch"), flush=True)
ranks = start("save")
mine = Path("checkpoint/__0_0.distcp")
end = time.monotonic() + 300
while not Path("waits.txt").exists() and time.monotonic() < end:
    time.sleep(0.05)
first = Path("checkpoint/.metadata").stat().st_mtime_ns
while mine.stat().st_mtime_ns < first and time.monotonic() < end:
    time.sleep(0.05)  # rank 0 has written over its file
time.sleep(2)
for process in ranks:
    process.kill()
    process.wait()
print("files:", sorted(path.name for path in Path("checkpoint").iterdir()))
codes = [process.wait(300) for process in start("load")]
loaded = json.loads(Path("loaded.json").read_text())
print("loaded:", loaded)
as_described = codes == [0, 0] and loaded == [4.0, 4.0, 2.0, 2.0]
print("as described" if as_described else "it has changed")
sys.exit(not as_described)
PY
venv/bin/python preempt.py
