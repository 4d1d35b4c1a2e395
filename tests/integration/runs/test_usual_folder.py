"""The usual run folder is where the command was given, wherever the script goes to then."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.timeout(240)

SCRIPT = """
import os
import torch
from torch.utils.data import TensorDataset
{EARLY}

def main(run):
    job = run.prepare(
        model=lambda: torch.nn.Linear(8, 1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
        train=TensorDataset(torch.randn(16, 8)), global_batch=8, micro_batch=4, steps=2,
    )
    for step in job:
        for (x,) in step:
            step.backward(job.model(x).square().sum(), count=len(x))

os.makedirs("outputs/now", exist_ok=True)
os.chdir("outputs/now")
{LATE}
Run.start(main)
"""
IMPORT = "from launcher import Run"


@pytest.mark.parametrize("options", [(), ("--cold",)])
@pytest.mark.parametrize("where", ["EARLY", "LATE"])
def test_a_script_that_goes_elsewhere(options, where, launch):
    text = SCRIPT.replace("{" + where + "}", IMPORT).replace("{EARLY}", "").replace("{LATE}", "")
    to = (*options, "--strategy", "ddp")
    launched = launch(*to, "--nproc-per-node", "2", launch.script(text))
    assert launched.wait(100) == 0, launched.stderr
    assert (launch.folder / "runs" / "train" / "events.jsonl").exists()
    assert not (launch.folder / "outputs" / "now" / "runs").exists()
    again = launch(*to, launch.script(text))
    assert again.wait(100) == 0, again.stderr
    assert "this run had finished already" in again.stdout


TWO = """
import torch
from torch.utils.data import TensorDataset
from launcher import Run

def main(run):
    print("rank", run.ranks.rank, run.folder.path, flush=True)
    job = run.prepare(
        model=lambda: torch.nn.Linear(8, 1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
        train=TensorDataset(torch.randn(16, 8)), global_batch=8, micro_batch=4, steps=2,
    )
    for step in job:
        for (x,) in step:
            step.backward(job.model(x).square().sum(), count=len(x))

Run.start(main)
"""


def test_ranks_that_were_started_in_different_folders(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TWO)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    ranks = []
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
        environ = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}
        environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(script)]
        environ = {**os.environ, **environ, "PYTHONPATH": str(ROOT)}
        cwd = tmp_path / rank
        ranks.append(subprocess.Popen(command, cwd=cwd, env=environ, stdout=subprocess.PIPE))
    told = [rank.communicate(timeout=100)[0].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    path = tmp_path / "0" / "runs" / "train"
    for number, text in enumerate(told):
        assert f"rank {number} {path}" in text
    assert not list((tmp_path / "1").iterdir())
    assert list((path / "checkpoints").glob("step-*"))


GOES_ON = """
import os
import torch
from torch.utils.data import TensorDataset
from launcher import Run

def main(run):
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
    job = run.prepare(
        model=lambda: torch.nn.Linear(8, 1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
        train=TensorDataset(torch.randn(16, 8)), global_batch=8, micro_batch=4, steps=2,
    )
    for step in job:
        for (x,) in step:
            step.backward(job.model(x).square().sum(), count=len(x))
    job.export("last")

Run.start(main, run_dir="mine", checkpoints="states")
"""


def test_a_script_that_goes_elsewhere_after_the_start(python, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(GOES_ON)
    done = python(str(script), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine" / "events.jsonl").exists()
    assert (tmp_path / "mine" / "export" / "model.safetensors").exists()
    assert list((tmp_path / "states" / "checkpoints").glob("step-*"))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_under_plain_python(python, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.replace("{EARLY}", IMPORT).replace("{LATE}", ""))
    done = python(str(script), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "train" / "events.jsonl").exists()
