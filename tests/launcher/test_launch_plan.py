"""Resolving the options on a machine."""

import pytest

from launcher.contract.run_options import RunOptions
from launcher.errors import UsageError
from launcher.plan.launch_plan import make_plan, resolve_nproc
from launcher.plan.machine import Machine
from launcher.plan.options import LaunchOptions

CPU = Machine(num_gpus=0, num_cpus=6)
GPUS = Machine(num_gpus=4, num_cpus=6, cuda_visible_devices="0,1,2,3")


@pytest.mark.parametrize(
    ("asked", "machine", "strategy", "nproc"),
    [
        (None, CPU, None, 1),
        (None, GPUS, None, 4),
        (None, GPUS, "single", 1),
        ("auto", CPU, None, 6),
        ("auto", GPUS, None, 4),
        ("cpu", GPUS, None, 6),
        ("gpu", GPUS, "fsdp", 4),
        (3, CPU, "ddp", 3),
        (8, GPUS, None, 8),
        (1, GPUS, "single", 1),
    ],
)
def test_nproc(asked, machine, strategy, nproc):
    options = LaunchOptions(script="x.py", nproc_per_node=asked, run=RunOptions(strategy=strategy))
    assert resolve_nproc(options, machine, uses_run=False) == nproc


@pytest.mark.parametrize(
    ("asked", "machine", "strategy", "uses_run", "message"),
    [
        (
            8,
            GPUS,
            None,
            True,
            "--nproc-per-node 8 is 8 ranks, but this machine shows 4 GPUs "
            "(CUDA_VISIBLE_DEVICES=0,1,2,3). Pass --nproc-per-node 4, or hide the GPUs with "
            "CUDA_VISIBLE_DEVICES= to train on the CPU.",
        ),
        (
            "gpu",
            CPU,
            None,
            False,
            "--nproc-per-node gpu, but this machine shows no GPU. Pass a number or cpu.",
        ),
        (
            "auto",
            GPUS,
            "single",
            True,
            "--strategy single is one rank, but --nproc-per-node auto is 4. "
            "Pass --nproc-per-node 1 or another strategy.",
        ),
    ],
)
def test_nproc_refused(asked, machine, strategy, uses_run, message):
    options = LaunchOptions(script="x.py", nproc_per_node=asked, run=RunOptions(strategy=strategy))
    with pytest.raises(UsageError) as caught:
        resolve_nproc(options, machine, uses_run=uses_run)
    assert str(caught.value) == message


def test_strategy_or_precision_means_a_script_of_ours():
    options = LaunchOptions(script="x.py", nproc_per_node=8, run=RunOptions(strategy="ddp"))
    with pytest.raises(UsageError, match="8 ranks, but this machine shows 4 GPUs"):
        resolve_nproc(options, GPUS, uses_run=False)


def test_plan(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("from launcher import Run")
    plan = make_plan(
        LaunchOptions(
            script=str(script), run=RunOptions(run_dir=tmp_path / "deep" / "run", precision="fp16")
        ),
        GPUS,
    )
    assert plan.uses_run
    assert plan.local_world_size == 4
    assert plan.run.run_dir == tmp_path / "deep" / "run"
    assert plan.log_dir == tmp_path / "deep" / "run" / "logs"
    assert not plan.run.run_dir.exists()
    assert (plan.master_addr, plan.master_port) == ("127.0.0.1", 0)


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    plan = make_plan(
        LaunchOptions(script="train.py", run=RunOptions(run_dir=tmp_path / "." / "run")), CPU
    )
    assert plan.program.name == "train.py"
    assert plan.run.run_dir == tmp_path / "run"
    assert not plan.uses_run


def test_fp16_needs_a_gpu(tmp_path):
    (tmp_path / "train.py").touch()
    with pytest.raises(UsageError) as caught:
        make_plan(
            LaunchOptions(script=str(tmp_path / "train.py"), run=RunOptions(precision="fp16")), CPU
        )
    assert str(caught.value) == (
        "fp16 needs a GPU; this machine shows none. Use --precision bf16 or fp32."
    )
