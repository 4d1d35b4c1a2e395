"""A real Slurm on this machine: munge, a controller and some node daemons in a folder."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launcher.schedulers.slurm.job_info import JobFacts, parse_job
from launcher.schedulers.slurm.scontrol import fixed_environment

ROOT = Path(__file__).parents[3]
RELAUNCH = f"{sys.executable} -c 'from launcher.cli import main; main()'"
DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "scontrol", "scancel", "sinfo")
KILL_WAIT_S = 30
"""Slurm's default: on a busy machine the ranks may need some of it."""
GRACE_S = 20
GPUS = "tty[0-1]"

CONF = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
FirstJobId={first_job}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait={kill_wait}
SlurmdTimeout=10
MessageTimeout=4
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace} MaxTime=60
PartitionName=low0 Nodes=ALL PriorityTier=1 GraceTime=0 MaxTime=60
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=60
"""


def missing() -> str | None:
    """Return what Slurm lacks on this machine."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in (*DAEMONS, *COMMANDS) if shutil.which(name, path=path) is None]
    return f"no {', '.join(absent)} here (scripts/install --with-slurm)" if absent else None


def until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def with_open_folders(scratch: Path) -> tuple[str, ...]:
    """Return the words before a command that sees this Python and this source as others may.

    Both may lie below a folder that is closed to others, such as root's home. The command then gets
    a view of the file system, of its own, in which that folder holds nothing else and is open.

    Args:
        scratch: an empty folder.
    """
    needed = {Path(sys.base_prefix), Path(sys.prefix), ROOT}
    closed: dict[Path, list[Path]] = {}
    for path in sorted(needed):
        above = [one for one in reversed(path.parents) if not one.stat().st_mode & 0o001]
        if above:
            closed.setdefault(above[0], []).append(path)
    if not closed:
        return ()
    lines = []
    for number, (folder, paths) in enumerate(closed.items()):
        at = scratch / str(number)
        lines.append(f"mkdir -p {at}; mount -t tmpfs -o mode=755 none {at}")
        for path in paths:
            inner = at / path.relative_to(folder)
            lines.append(f"mkdir -p {inner}; mount --bind {path} {inner}")
        lines.append(f"mount --rbind {at} {folder}")
    script = "\n".join([*lines, 'exec "$@"'])
    return ("unshare", "--mount", "--propagation", "private", "bash", "-ec", script, "bash")


class Cluster:
    """Starts and stops the daemons, by their process ids, and talks to them."""

    def __init__(self, folder: Path, num_nodes: int) -> None:
        self.folder = folder
        self.nodes = tuple(f"n{number}" for number in range(num_nodes))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> None:
        host = socket.gethostname().partition(".")[0]
        (self.folder / "state").mkdir()
        node = (
            "NodeName={} NodeHostname={} NodeAddr=127.0.0.1 Port={} CPUs=2 RealMemory=1000 "
            "Gres=gpu:2"
        )
        text = CONF.format(
            host=host,
            port=free_port(),
            # A job's port comes from its number: two clusters on one host need other numbers.
            first_job=1 + os.getpid() % 50_000,
            user=getpass.getuser(),
            folder=self.folder,
            kill_wait=KILL_WAIT_S,
            grace=GRACE_S,
            nodes="\n".join(node.format(name, host, free_port()) for name in self.nodes),
        )
        (self.folder / "slurm.conf").write_text(text)
        # Two "GPUs" a node: Slurm only counts the files and tells their numbers to the job.
        (self.folder / "gres.conf").write_text(
            "".join(f"NodeName={name} Name=gpu File=/dev/{GPUS}\n" for name in self.nodes)
        )
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        names = ("socket", "pid-file", "log-file", "seed-file")
        files = [f"--{name}={self.folder}/munge.{name.partition('-')[0]}" for name in names]
        self._run("munged", "--foreground", "--force", f"--key-file={key}", *files)
        until((self.folder / "munge.socket").exists, "munged", 10)
        self.start_controller()
        for name in self.nodes:
            self.start_node(name)
        until(self._nodes_are_idle, "nodes")

    def _nodes_are_idle(self) -> bool:
        with contextlib.suppress(subprocess.SubprocessError):  # the controller may not answer yet
            return self.ask("sinfo", "-h", "-t", "idle", "-o", "%D") == str(len(self.nodes))
        return False

    def start_controller(self) -> None:
        self._run("slurmctld", "-D")

    def start_node(self, name: str, inside: tuple[str, ...] = ()) -> None:
        """Start the daemon of a node; `inside`: the words of a command that becomes it."""
        self._run(*inside, "slurmd", "-D", "-N", name, as_name=name)

    def stop_daemon(self, name: str, signum: int = signal.SIGTERM) -> None:
        """Stop the controller or the daemon of a node."""
        daemon = self._daemons.pop(name)
        daemon.send_signal(signum)
        daemon.wait(timeout=20)

    def stop(self) -> list[int]:
        """End everything; return the processes of jobs that had to be killed."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.ask("scancel", "--user", getpass.getuser())
            until(
                lambda: not self.ask("squeue", "-h", "-t", "all", "-o", "%t").count("CG"),
                "jobs",
                15,
            )
        for name in tuple(reversed(self._daemons)):
            with contextlib.suppress(subprocess.SubprocessError):
                self.stop_daemon(name)
        left = self.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def processes(self) -> list[int]:
        """Return the processes that carry this cluster's name in their environment."""
        mark, found = f"SLURM_CONF={self.folder}".encode(), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        daemons = {daemon.pid for daemon in self._daemons.values()}
        return [pid for pid in found if pid not in daemons and pid != os.getpid()]

    def ask(self, *words: str, environ: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            words,
            env=environ or self.environ,
            capture_output=True,
            text=True,
            timeout=30,
            cwd=self.folder,
        )
        if done.returncode:
            raise subprocess.SubprocessError(f"{words}: {done.stderr}")
        return done.stdout.strip()

    def facts(self, job: str) -> JobFacts:
        environ = fixed_environment(self.environ)
        found = parse_job(self.ask("scontrol", "show", "job", job, environ=environ))
        assert found is not None
        return found

    def exit_code(self, job: str) -> str:
        return self.facts(job).exit_code

    def _run(self, *words: str, as_name: str | None = None) -> None:
        name = as_name or words[0]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                words,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
