"""The usual run folder is where the command was given, wherever the script goes to then."""

import pytest

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
