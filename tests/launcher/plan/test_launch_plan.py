"""Resolving the options on a machine."""

import pytest

from launcher.contract.run_options import RunOptions
from launcher.errors import UsageError
from launcher.plan import launch_plan
from launcher.plan.launch_plan import (
    make_plan,
    out_of_reach_note,
    require_engine,
    resolve_nproc,
    sharing_note,
)
from launcher.plan.machine import Machine
from launcher.plan.options import LaunchOptions
from launcher.plan.program import ProgramKind

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
            "CUDA_VISIBLE_DEVICES= to train on the CPU. To try a run of several ranks on fewer "
            "GPUs, set RELAUNCH_CUDA_BACKEND=gloo.",
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


ONE_SHARED = Machine(num_gpus=1, num_cpus=6, shares_gpus=True)


@pytest.mark.parametrize("strategy", [None, "auto", "ddp", "fsdp"])
def test_ranks_may_share_gpus_for_a_trial(strategy):
    options = LaunchOptions(script="x.py", nproc_per_node=2, run=RunOptions(strategy=strategy))
    assert resolve_nproc(options, ONE_SHARED, uses_run=True) == 2


@pytest.mark.parametrize("strategy", ["zero2", "accelerate"])
def test_strategies_that_cannot_share_a_gpu(strategy):
    options = LaunchOptions(script="x.py", nproc_per_node=2, run=RunOptions(strategy=strategy))
    with pytest.raises(UsageError, match="pass --strategy ddp or fsdp, or --nproc-per-node 1"):
        resolve_nproc(options, ONE_SHARED, uses_run=True)


@pytest.mark.parametrize(("machine", "is_said"), [(ONE_SHARED, True), (GPUS, False), (CPU, False)])
def test_what_shared_gpus_are_is_said(machine, is_said):
    note = sharing_note(2, machine)
    assert (note is not None) == is_said
    assert note is None or "2 ranks share 1 GPU" in note


@pytest.mark.parametrize("num_ranks", [1, 8])
def test_gpus_out_of_reach_are_said(num_ranks):
    note = out_of_reach_note(num_ranks, Machine(num_gpus=0, num_cpus=6, out_of_reach=8))
    assert note is not None
    assert note.startswith(f"{num_ranks} rank{'s' * (num_ranks > 1)} on the CPU: ")
    assert "no GPU (NVIDIA's driver lists 8," in note
    assert note.endswith("CUDA_VISIBLE_DEVICES= says that this is meant.")
    assert out_of_reach_note(num_ranks, CPU) is None


@pytest.mark.parametrize("installed", [None, "0.19.7"])
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_zero_without_a_deepspeed_that_it_can_use(tmp_path, monkeypatch, strategy, installed):
    monkeypatch.setattr(launch_plan, "installed", lambda: installed)
    (tmp_path / "x.py").write_text("")
    options = LaunchOptions(script=str(tmp_path / "x.py"), run=RunOptions(strategy=strategy))
    with pytest.raises(UsageError, match=rf"strategy={strategy} needs DeepSpeed 0\.19\.8"):
        require_engine(make_plan(options, CPU))


@pytest.mark.parametrize("strategy", [None, "auto", "ddp", "fsdp", "accelerate"])
def test_other_strategies_do_not_ask_for_deepspeed(tmp_path, monkeypatch, strategy):
    monkeypatch.setattr(launch_plan, "installed", lambda: None)
    (tmp_path / "x.py").write_text("")
    require_engine(
        make_plan(
            LaunchOptions(script=str(tmp_path / "x.py"), run=RunOptions(strategy=strategy)), CPU
        )
    )


def test_a_program_that_is_no_python_may_find_other_packages(monkeypatch):
    monkeypatch.setattr(launch_plan, "installed", lambda: None)
    options = LaunchOptions(
        script="true", kind=ProgramKind.COMMAND, run=RunOptions(strategy="zero2")
    )
    require_engine(make_plan(options, CPU))
