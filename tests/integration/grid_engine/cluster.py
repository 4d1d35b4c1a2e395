"""A real Grid Engine of three hosts on this machine: a namespace each, all files in one folder."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from launcher.commands.rehearse.network import lay_cables, remove

ROOT = Path(__file__).parents[3]
RELAUNCH = f"{sys.executable} -c 'from launcher.cli import main; main()'"
PROGRAMS = Path("/usr/lib/gridengine")
SHARED = Path("/usr/share/gridengine")
NEEDED = ("sge_qmaster", "sge_execd", "qsub", "spoolinit", "spooldefaults")
HOSTS = ("n0", "n1", "n2")
NOTIFY_S = 30
"""From a notice to the kill or the stop: on a busy machine the ranks need some of it."""

BOOTSTRAP = """\
admin_user              none
default_domain          none
ignore_fqdn             false
spooling_method         berkeleydb
spooling_lib            libspoolb
spooling_params         {folder}/spooldb
binary_path             {programs}
qmaster_spool_dir       {folder}/qmaster
security_mode           none
listener_threads        2
worker_threads          2
scheduler_threads       1
"""
ENVIRONMENT = """\
pe_name            relaunch
slots              999
user_lists         NONE
xuser_lists        NONE
start_proc_args    NONE
stop_proc_args     NONE
allocation_rule    1
control_slaves     TRUE
job_is_first_task  FALSE
urgency_slots      min
accounting_summary FALSE
qsort_args         NONE
"""


def missing() -> str | None:
    """Return what Grid Engine lacks on this machine."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "the hosts of a Grid Engine are network namespaces: that needs root and iproute2"
    absent = [name for name in NEEDED if not (PROGRAMS / name).exists()]
    packages = "gridengine-master gridengine-exec gridengine-client"
    return f"no {', '.join(absent)} here: apt-get install {packages}" if absent else None


def until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.2)


def changed(text: str, **settings: str) -> str:
    """Return a configuration of Grid Engine with some of its lines replaced."""
    lines = [line for line in text.splitlines() if line.split(" ")[0] not in settings]
    return "\n".join([*lines, *(f"{name} {value}" for name, value in settings.items())]) + "\n"


class Cluster:
    """Lays the cables, starts and stops the daemons by their process ids, and asks them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = uuid.uuid4().hex[:5]
        self._switch = f"ge-{self._key}-switch"
        self._daemons: list[subprocess.Popen[bytes]] = []
        port = 20000 + os.getpid() % 20000
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("SGE_", "SLURM_", "PE_"))}
        self.environ = {
            **kept,
            "SGE_ROOT": str(folder / "root"),
            "SGE_CELL": "default",
            "SGE_ARCH": "lx-amd64",
            "SGE_QMASTER_PORT": str(port),
            "SGE_EXECD_PORT": str(port + 1),
            "SGE_ND": "1",
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> None:
        self._lay_cables()
        self._spool()
        self._run("sge_qmaster", "n0")
        until(lambda: self._try("qconf", "-sconf"), "the master", 30)
        for host in HOSTS[1:]:
            self.ask("qconf", "-ah", host)
        self.ask("qconf", "-as", "n0")
        for host in HOSTS:
            self._run("sge_execd", host)
        self._configure()
        until(lambda: self.ask("qhost").count("lx-amd64") == len(HOSTS), "the hosts")

    def stop(self) -> list[int]:
        """End everything; return the processes of jobs that had to be killed."""
        self._try("qdel", "-f", "*")
        with contextlib.suppress(AssertionError):
            until(lambda: not self.processes(), "the jobs' end", 15)
        left = self.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait(timeout=10)
        remove([*map(self._name, HOSTS), self._switch])
        return left

    def processes(self) -> list[int]:
        """Return the processes of jobs: they carry the folder and a job's number."""
        mark, found = f"SGE_ROOT={self.folder}".encode(), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                text = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
                if mark in text and b"\0JOB_ID=" in text:
                    found.append(int(entry.name))
        return found

    def on(self, host: str, *words: str) -> list[str]:
        """Return the command that runs another one on a host."""
        hosts = self.folder / "hosts"
        line = f'mount --bind {hosts} /etc/hosts && hostname {host} && exec "$@"'
        entered = ("ip", "netns", "exec", self._name(host), "unshare", "--uts", "--mount")
        return [*entered, "sh", "-c", line, "sh", *words]

    def ask(self, program: str, *words: str) -> str:
        done = subprocess.run(
            self.on("n0", str(PROGRAMS / program), *words),
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
        )
        if done.returncode:
            raise subprocess.SubprocessError(f"{program} {words}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Return the job's state as qstat shows it; empty: it is not in the queue any more."""
        rows = [line.split() for line in self.ask("qstat").splitlines()]
        return next((row[4] for row in rows if row and row[0] == job), "")

    def _try(self, program: str, *words: str) -> bool:
        try:
            self.ask(program, *words)
        except subprocess.SubprocessError:
            return False
        return True

    def _name(self, host: str) -> str:
        return f"ge-{self._key}-{host}"

    def _lay_cables(self) -> None:
        names = [self._name(host) for host in HOSTS]
        cables = [f"ge{self._key}{host}" for host in HOSTS]
        addresses = [f"10.231.9.{number}" for number, _ in enumerate(HOSTS, start=1)]
        lay_cables(self._switch, names, cables, addresses)
        known = ["127.0.0.1 localhost", *map(" ".join, zip(addresses, HOSTS, strict=True))]
        (self.folder / "hosts").write_text("\n".join(known) + "\n")

    def _spool(self) -> None:
        common = self.folder / "root" / "default" / "common"
        for path in (
            common,
            *(self.folder / n for n in ("spooldb", "qmaster/job_scripts", "execd")),
        ):
            path.mkdir(parents=True)
        for name in ("bin", "lib", "utilbin"):
            (self.folder / "root" / name).mkdir()
            (self.folder / "root" / name / "lx-amd64").symlink_to(PROGRAMS)
        (self.folder / "root" / "util").symlink_to(SHARED / "util")
        (common / "act_qmaster").write_text("n0\n")
        (common / "bootstrap").write_text(BOOTSTRAP.format(folder=self.folder, programs=PROGRAMS))
        text = changed(
            (SHARED / "default-configuration").read_text(),
            execd_spool_dir=f"{self.folder}/execd",
            min_uid="0",
            min_gid="0",
            mailer="/bin/true",
            login_shells="none",
            load_report_time="00:00:02",
        )
        (self.folder / "configuration").write_text(text)
        resources = str(SHARED / "util" / "resources")
        self.ask("spoolinit", "berkeleydb", "libspoolb", f"{self.folder}/spooldb", "init")
        self.ask("spooldefaults", "configuration", f"{self.folder}/configuration")
        self.ask("spooldefaults", "complexes", f"{resources}/centry")
        self.ask("spooldefaults", "usersets", f"{resources}/usersets")
        self.ask("spooldefaults", "managers", "root")

    def _configure(self) -> None:
        def given(name: str, text: str) -> str:
            (self.folder / name).write_text(text)
            return str(self.folder / name)

        self.ask("qconf", "-Ap", given("pe", ENVIRONMENT))
        closed = changed(ENVIRONMENT, pe_name="closed", control_slaves="FALSE")
        self.ask("qconf", "-Ap", given("closed", closed))
        queue = changed(
            self.ask("qconf", "-sq"),
            qname="all.q",
            hostlist=" ".join(HOSTS),
            load_thresholds="NONE",
            pe_list="relaunch closed",
            slots="1",
            notify=f"00:00:{NOTIFY_S}",
            shell_start_mode="unix_behavior",
        )
        self.ask("qconf", "-Aq", given("queue", queue))
        soon = dict.fromkeys(("flush_submit_sec", "flush_finish_sec"), "1")
        settings = changed(self.ask("qconf", "-ssconf"), schedule_interval="0:0:1", **soon)
        self.ask("qconf", "-Msconf", given("scheduler", settings))

    def _run(self, program: str, host: str) -> None:
        with (self.folder / f"{program}-{host}.log").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    self.on(host, str(PROGRAMS / program)),
                    env=self.environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
