"""The environment of a rank, written and read back."""

from dataclasses import replace
from pathlib import Path

import pytest

from launcher.contract.environment import (
    GroupSettings,
    RankEnvironment,
    RankFiles,
    WorkerPlace,
    default_environment,
    only_device,
    only_devices,
    worker_environment,
)
from launcher.contract.run_options import RunOptions
from launcher.workers.forkserver.eligibility import other_variables

PLACE = WorkerPlace(
    rank=5,
    local_rank=1,
    world_size=8,
    local_world_size=4,
    group_rank=1,
    group_world_size=2,
    role_rank=5,
    role_world_size=8,
    role_name="default",
)
ASKED = RunOptions(
    strategy="fsdp",
    precision="bf16",
    shard_blocks="layers.*",
    hybrid_shard=True,
    run_dir=Path("/runs/one"),
    checkpoints="s3://bucket/one",
)
SETTINGS = GroupSettings(
    master_addr="127.0.0.1",
    master_port=4711,
    restart_count=2,
    max_restarts=3,
    run_id="abc",
    rendezvous_id="job",
    virtual_local_rank=False,
    interface="eth7",
    run=ASKED,
    attempt=4,
    warning_file=Path("/tmp/x/warning.json"),
)


def write(settings=SETTINGS, place=PLACE, **inherited):
    return worker_environment(
        place, settings, files=RankFiles.of(Path("/tmp/x"), place.rank), inherited=inherited
    )


def test_what_is_written_is_read_back():
    assert RankEnvironment.from_environ(write()) == RankEnvironment(
        rank=5,
        local_rank=1,
        world_size=8,
        local_world_size=4,
        node_rank=1,
        restart_count=2,
        run_id="abc",
        launched=True,
        run=ASKED,
        attempt=4,
        error_file=Path("/tmp/x/rank-5-error.json"),
        warning_file=Path("/tmp/x/warning.json"),
        heartbeat_file=Path("/tmp/x/rank-5-heartbeat"),
        stacks_file=Path("/tmp/x/rank-5-stacks"),
        folder_file=Path("/tmp/x/rank-5-folder"),
        leaving_file=Path("/tmp/x/rank-5-leaving"),
        has_threads=True,
    )


def test_plain_python_is_rank_0_of_1():
    seen = RankEnvironment.from_environ({"PATH": "/bin"})
    assert (seen.rank, seen.local_rank, seen.world_size, seen.node_rank) == (0, 0, 1, 0)
    assert not seen.launched
    assert (seen.run, seen.error_file) == (RunOptions(), None)


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_whoever_tunes_the_allocator_is_left_alone(name):
    assert RankEnvironment.from_environ({name: "1"}).tunes_malloc
    assert not RankEnvironment.from_environ({"PATH": "/bin"}).tunes_malloc


def test_torchrun_counts_as_launched():
    told = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "none"}
    seen = RankEnvironment.from_environ(told)
    assert seen.launched
    assert seen.run_id == "none"
    assert seen.local_world_size == 2


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "1"}, "has RANK=1 but no WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "has WORLD_SIZE=2 but no RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is not in WORLD_SIZE=2"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK='one' in the environment is not a whole number"),
    ],
)
def test_half_or_wrong_environment(environ, message):
    with pytest.raises(ValueError, match=message):
        RankEnvironment.from_environ(environ)


def test_wishes_of_an_outer_run_are_not_inherited():
    bare = replace(SETTINGS, run=RunOptions())
    written = write(bare, RELAUNCH_STRATEGY="ddp", RELAUNCH_RUN_DIR="/other", HOME="/root")
    assert "RELAUNCH_STRATEGY" not in written
    assert "RELAUNCH_RUN_DIR" not in written
    assert written["HOME"] == "/root"


def test_defaults_yield_to_what_the_user_set():
    assert write()["OMP_NUM_THREADS"] == "1"
    assert write(OMP_NUM_THREADS="6")["OMP_NUM_THREADS"] == "6"
    written = write(TORCH_NCCL_ASYNC_ERROR_HANDLING="3")
    assert written["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "3"


def test_what_nccl_leaves_goes_with_the_logs():
    names = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
    written = write(replace(SETTINGS, log_folder=Path("/logs/node-1/attempt-4")))
    for name in names:
        assert written[name] == "/logs/node-1/attempt-4/nccl-trace-rank-"
        assert write(**{name: "/own"})[name] == "/own"
        assert name not in write(replace(SETTINGS, log_folder=None))
    # torch adds the rank and ".pipe", and ends the process where the folder is missing.
    name = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
    assert f"{written[name]}5.pipe" == str(RankFiles.of(Path("/tmp/x"), 5).nccl_pipe)
    assert write(**{name: "/own"})[name] == "/own"
    assert name not in write(replace(SETTINGS, log_folder=None))
    # An error of CUDA is told by the main thread, not by NCCL's, which would end the process.
    assert written["TORCH_NCCL_RETHROW_CUDA_ERRORS"] == "0"
    assert write(TORCH_NCCL_RETHROW_CUDA_ERRORS="1")["TORCH_NCCL_RETHROW_CUDA_ERRORS"] == "1"


def test_nothing_that_a_rank_is_told_makes_it_import_torch_anew():
    at_import = {**default_environment(PLACE.local_world_size), "HOME": "/root"}
    told = write(
        replace(SETTINGS, run=RunOptions(run_dir=Path("/runs/one")), log_folder=Path("/logs")),
        HOME="/root",
    )
    assert other_variables(told, at_import) is None


@pytest.mark.parametrize(("given", "backend"), [(None, None), ("", None), ("nccl", None)])
def test_nccl_sums_on_gpus(given, backend):
    environ = {} if given is None else {"RELAUNCH_CUDA_BACKEND": given}
    assert RankEnvironment.from_environ(environ).cuda_backend == backend


def test_ranks_are_told_to_share_gpus():
    told = write(RELAUNCH_CUDA_BACKEND="gloo")
    assert RankEnvironment.from_environ(told).cuda_backend == "gloo"
    with pytest.raises(ValueError, match='RELAUNCH_CUDA_BACKEND="mpi"; it can be nccl'):
        RankEnvironment.from_environ({"RELAUNCH_CUDA_BACKEND": "mpi"})


def test_one_rank_keeps_all_threads():
    alone = replace(PLACE, rank=0, local_rank=0, world_size=1, local_world_size=1)
    assert "OMP_NUM_THREADS" not in write(place=alone)


@pytest.mark.parametrize(
    ("visible", "local_rank", "device"),
    [(None, 3, "3"), ("4,7", 1, "7"), ("GPU-a, GPU-b", 1, "GPU-b"), ("", 0, ""), ("5", 1, "")],
)
def test_the_one_device_of_a_virtual_local_rank(visible, local_rank, device):
    assert only_device(visible, local_rank) == device


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({}, {"CUDA_VISIBLE_DEVICES": "1"}),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, {"CUDA_VISIBLE_DEVICES": "3"}),
        ({"HIP_VISIBLE_DEVICES": "4,5"}, {"HIP_VISIBLE_DEVICES": "5"}),
        (
            {"HIP_VISIBLE_DEVICES": "4,5", "CUDA_VISIBLE_DEVICES": "0,1"},
            {"HIP_VISIBLE_DEVICES": "5", "CUDA_VISIBLE_DEVICES": "1"},
        ),
    ],
)
def test_each_variable_that_is_given_shows_the_rank_its_device(given, written):
    assert only_devices(given, 1) == written


def test_virtual_local_rank():
    written = write(replace(SETTINGS, virtual_local_rank=True), CUDA_VISIBLE_DEVICES="2,3")
    assert (written["LOCAL_RANK"], written["CUDA_VISIBLE_DEVICES"]) == ("0", "3")


def test_gloo_uses_the_interface_of_the_rendezvous_unless_the_user_says_otherwise():
    assert write()["GLOO_SOCKET_IFNAME"] == "eth7"
    assert write(GLOO_SOCKET_IFNAME="ib0")["GLOO_SOCKET_IFNAME"] == "ib0"
    assert "GLOO_SOCKET_IFNAME" not in write(replace(SETTINGS, interface=None))


def test_nccl_uses_that_interface_on_several_nodes_unless_the_user_says_otherwise():
    assert write()["NCCL_SOCKET_IFNAME"] == "=eth7"
    assert write(NCCL_SOCKET_IFNAME="^docker")["NCCL_SOCKET_IFNAME"] == "^docker"
    assert "NCCL_SOCKET_IFNAME" not in write(place=replace(PLACE, group_world_size=1))
    assert "NCCL_SOCKET_IFNAME" not in write(replace(SETTINGS, interface=None))


def test_no_rank_gets_the_secret_of_the_nodes():
    assert "RELAUNCH_SECRET" not in write(RELAUNCH_SECRET="0123456789abcdef")


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({}, None),
        ({"SLURM_ARRAY_TASK_ID": "0"}, "SLURM_ARRAY_TASK_ID"),
        ({"PBS_ARRAY_INDEX": "7"}, "PBS_ARRAY_INDEX"),
        ({"SGE_TASK_ID": "undefined"}, None),
        ({"SGE_TASK_ID": "2"}, "SGE_TASK_ID"),
        ({"LSB_JOBINDEX": "0"}, None),
    ],
)
def test_an_element_of_a_job_array_is_known(environ: dict[str, str], variable: str | None) -> None:
    assert RankEnvironment.from_environ(environ).array_variable == variable
