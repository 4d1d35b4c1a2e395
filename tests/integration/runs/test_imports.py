"""Checkpoints that DeepSpeed itself has written are taken over, and a run goes on from them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from checkpointing import CheckpointStore
from strategies.parallel.state.typed_values import decode

pytestmark = pytest.mark.timeout(180)
WORKER = Path(__file__).parents[1] / "workers" / "deepspeed_worker.py"
ROOT = Path(__file__).parents[3]
MAIN = "import sys; from launcher.cli import main; sys.exit(main())"

# What DeepSpeed's own tools make of the same files, in a process of their own.
TRUTH = """
import sys, torch
from deepspeed.checkpoint.ds_to_universal import main, parse_arguments
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
for stage in (1, 2, 3):
    found = get_fp32_state_dict_from_zero_checkpoint(f"out/zero{stage}")
    torch.save({k: v.clone() for k, v in found.items()}, f"truth-{stage}.pt")
sys.argv = ["x", "--input_folder", "out/zero3/step", "--output_folder", "universal",
            "--num_extract_workers", "1", "--num_merge_workers", "1"]
main(parse_arguments())
"""

SCRIPT = """
import json
import torch
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run

def make():
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))

def main(run):
    job = run.prepare(
        model=make, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        train=TensorDataset(torch.randn(8, 5), torch.randn(8, 3)),
        global_batch=8, micro_batch=4, epochs=2, save_every="1 epoch",
    )
    if rank == 0:
        state = job.model.module.state_dict()
        begins = {name: tensor.tolist() for name, tensor in state.items()}
        pathlib.Path("begins.json").write_text(json.dumps(begins))
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))

Run.start(main)
"""


def command(launch, *words) -> str:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "checkpoint", *map(str, words)],
        cwd=launch.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tensors_of(run: Path) -> dict[tuple[str, str], torch.Tensor]:
    with CheckpointStore(run / "checkpoints").open(0) as reader:
        return {
            (s.fqn, s.key): reader.read(s.fqn, s.key, 0, s.numel).view(s.shape)
            for s in reader.manifest.specs()
        }


def test_what_deepspeed_saved_under_each_stage(launch):
    env = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    launched = launch("--nproc-per-node", "2", str(WORKER), "out", env=env)
    assert launched.wait(120) == 0, launched.stderr
    truth = subprocess.run(
        [sys.executable, "-c", TRUTH],
        cwd=launch.folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert truth.returncode == 0, truth.stderr
    moments = {}
    for stage in (1, 2, 3):
        run = launch.folder / f"run-{stage}"
        assert "18 tensors" in command(launch, "import", f"out/zero{stage}", run)
        found = tensors_of(run)
        weights = torch.load(launch.folder / f"truth-{stage}.pt")
        assert len(weights) == 6
        for name, tensor in weights.items():
            assert torch.equal(found[name, "param"], tensor), (stage, name)
        moments[stage] = {key: tensor for key, tensor in found.items() if key[1] != "param"}
    command(launch, "import", "universal", launch.folder / "run-u")
    universal = tensors_of(launch.folder / "run-u")
    assert {key for _, key in universal} == {"param", "exp_avg", "exp_avg_sq"}
    for key, tensor in moments[3].items():
        assert torch.equal(universal[key], tensor), key
        assert torch.equal(moments[1][key], moments[2][key]), key
    # A run goes on from it, with the weights and the optimizer's state.
    script = launch.script(SCRIPT)
    ours = launch("--nproc-per-node", "2", "--strategy", "ddp", "--run-dir", "run-3", script)
    assert ours.wait(60) == 0, ours.stderr
    assert "with what was imported from" in ours.stdout
    begins = json.loads((launch.folder / "begins.json").read_text())
    for name, values in begins.items():
        expected = universal[name.removeprefix("model."), "param"]
        assert torch.equal(torch.tensor(values), expected), name
    with CheckpointStore(launch.folder / "run-3" / "checkpoints").open(2) as reader:
        steps = reader.manifest.state["optimizer"]["values"]
    assert {decode(one["step"]).item() for one in steps.values()} == {5.0}
