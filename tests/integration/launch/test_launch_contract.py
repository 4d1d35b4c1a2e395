"""What a rank finds: torchrun's environment, and a process group that forms."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from launcher.errors import UsageError
from launcher.plan.cpu_binding import bind, read_topology

pytestmark = pytest.mark.timeout(120)

DUMP = """
import json
seen = {"environ": dict(os.environ), "argv": sys.argv, "path": sys.path[0], "name": __name__,
        "unbuffered": sys.stdout.write_through, "file": __file__}
pathlib.Path(f"dump-{rank}.json").write_text(json.dumps(seen))
"""
VALUES_IN_COMMON = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"),
    *("TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE"),
    *("TORCH_NCCL_ASYNC_ERROR_HANDLING", "OMP_NUM_THREADS"),
)


def dump(launch, rank):
    return json.loads((launch.folder / f"dump-{rank}.json").read_text())


@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
def test_same_environment_as_torchrun(launch, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    script = launch.script(DUMP)
    args = ("--lr", "1", "--at=${local_rank}/$local_rank", "$$5 ${other} $")
    assert launch("--nproc-per-node", "2", "--max-restarts", "1", script, *args).wait() == 0
    ours = [dump(launch, rank) for rank in (0, 1)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run(
        [*torchrun, "--max-restarts", "1", script, *args],
        cwd=launch.folder,
        check=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(launch.scratch)},
    )
    theirs = [dump(launch, rank) for rank in (0, 1)]
    for our, their in zip(ours, theirs, strict=True):
        for key in ("argv", "path", "name", "unbuffered", "file"):
            assert our[key] == their[key]
        added = set(our["environ"]) - set(their["environ"]) - {"PYTHONPATH"}
        missing = set(their["environ"]) - set(our["environ"])
        assert {name for name in added if not name.startswith("RELAUNCH_")} == {
            launch.mark[:16],
            *("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "TORCH_NCCL_RETHROW_CUDA_ERRORS"),
        }
        # This one is from torchrun to its own agent, and only happens to be inherited.
        assert missing - {"TORCHELASTIC_SIGNALS_TO_HANDLE"} == set()
        for name in VALUES_IN_COMMON:
            assert our["environ"][name] == their["environ"][name], name
    assert ours[0]["environ"]["MASTER_ADDR"] == "127.0.0.1"


def test_options_reach_the_rank(launch):
    script = launch.script(
        """
        from launcher.contract.environment import RankEnvironment
        e = RankEnvironment.from_environ(os.environ)
        r = e.run
        print(r.strategy, r.precision, r.run_dir, e.launched, e.rank, e.world_size, e.local_rank)
        """
    )
    options = ("--strategy", "zero2", "--precision", "bf16", "--run_dir", "run")
    launched = launch(*options, "--nproc_per_node=1", script)
    assert launched.wait() == 0
    assert launched.stdout == f"zero2 bf16 {launch.folder / 'run'} True 0 1 0\n"


def test_a_user_s_own_settings_are_kept(launch):
    script = launch.script("print(os.environ['OMP_NUM_THREADS'])")
    launched = launch("--nproc-per-node", "2", script, env={"OMP_NUM_THREADS": "3"})
    assert launched.wait() == 0
    assert sorted(launched.stdout.splitlines()) == ["3", "[rank 1] 3"]


def test_process_group_forms_also_after_a_restart(launch):
    script = launch.script(
        """
        import torch, torch.distributed as dist
        from torch.distributed.elastic.multiprocessing.errors import record
        @record
        def main():
            assert dist.is_torchelastic_launched()
            dist.init_process_group("gloo")
            total = torch.tensor([rank + 1.0])
            dist.all_reduce(total)
            if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and rank == 1:
                raise RuntimeError("lost")
            dist.barrier()
            if rank == 0: print(total.item())
            dist.destroy_process_group()
        main()
        """
    )
    launched = launch("--nproc-per-node", "2", "--max-restarts", "1", script)
    assert launched.wait(timeout_s=80) == 0
    assert launched.stdout == "3.0\n"
    assert "relaunch: RuntimeError: lost" in launched.said()


def test_the_ranks_meet_on_loopback_only(launch):
    script = launch.script(
        """
        port = f":{int(os.environ['MASTER_PORT']):04X}"
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in pathlib.Path(table).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if local.endswith(port) and state == "0A": print(local)
        """
    )
    launched = launch(script)
    assert launched.wait() == 0
    (listener,) = launched.stdout.split()
    assert listener.startswith("0100007F:")


@pytest.mark.parametrize("options", [("-m", "train"), ("-m", "package"), ("--no-python", "python")])
def test_modules_and_programs_run_as_under_torchrun(launch, options):
    launch.script("print(__name__, rank, sys.argv[1:], sys.path[0] == os.getcwd())")
    (launch.folder / "package").mkdir()
    (launch.folder / "package" / "__main__.py").write_text((launch.folder / "train.py").read_text())
    args = ("train.py",) if options[1] == "python" else ()
    launched = launch(*options, *args, "--lr", "1")
    assert launched.wait() == 0
    assert launched.stdout == "__main__ 0 ['--lr', '1'] True\n"


def test_options_of_torchrun_reach_the_rank(launch):
    script = launch.script(
        """
        names = ("ROLE_NAME", "TORCHELASTIC_RUN_ID", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES")
        print(*(os.environ[name] for name in names))
        """
    )
    words = ("--nproc", "2", "--role", "trainer", "--rdzv_id", "job", "--virtual_local_rank")
    launched = launch(*words, script, env={"CUDA_VISIBLE_DEVICES": "4,6"})
    assert launched.wait() == 0
    assert sorted(launched.stdout.splitlines()) == ["[rank 1] trainer job 0 6", "trainer job 0 4"]


def test_what_has_no_meaning_is_said_once(launch):
    launched = launch("--nproc-per-node", "2", "--start-method", "fork", launch.script("pass"))
    assert launched.wait() == 0
    assert launched.stderr == (
        "relaunch: --start-method fork has no effect: it changes nothing for a script, as in "
        "torchrun.\n"
    )


def test_nothing_listens_outside_loopback(launch):
    if shutil.which("ss") is None:
        pytest.skip("there is no ss command")
    script = launch.script(
        """
        import torch.distributed as dist
        dist.init_process_group("gloo")
        pathlib.Path(f"met-{rank}").touch()
        while not pathlib.Path("end").exists(): time.sleep(0.01)
        """
    )
    launched = launch("--nproc", "2", script)
    launched.wait_for_files("met-0", "met-1", cwd=launch.folder)
    shown = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    ours = {launched.pid, *launched.processes()}
    (launch.folder / "end").touch()
    assert launched.wait() == 0
    lines = [
        line
        for line in shown.splitlines()
        if ours & {int(pid) for pid in re.findall(r"pid=(\d+)", line)}
    ]
    assert len(lines) >= 3, shown  # the store, and gloo in each rank
    assert {line.split()[3].rpartition(":")[0] for line in lines} <= {"127.0.0.1", "[::1]"}


@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
def test_ranks_are_bound_to_the_cpus_that_the_plan_gives_them(launch):
    try:
        expected = bind("exclusive", read_topology(os.sched_getaffinity(0)), [None, None])
    except UsageError:
        pytest.skip("fewer than two cores")
    script = launch.script("print(rank, *sorted(os.sched_getaffinity(0)))")
    assert launch("--numa-binding", "exclusive", "--nproc", "2", script).wait() == 0
    lines = [line.removeprefix("[rank 1] ") for line in launch.started[-1].stdout.splitlines()]
    assert sorted(lines) == [
        " ".join(map(str, (rank, *cpus))) for rank, cpus in enumerate(expected)
    ]
