"""`relaunch doctor`: its options, the probes, and the report."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...command_line.byte_size import byte_size
from ...command_line.subcommand_parser import CommandParser
from ...contract.environment import OWN_NAMES
from ...contract.own_command import OWN_START
from ...errors import UsageError
from ...plan.machine import Machine
from ...schedulers.slurm.job_info import JobFacts
from ...schedulers.slurm.scontrol import Scontrol
from ...terminal.console import say
from ...workers import exec_worker
from . import verdicts
from .facts import FolderFacts, JobTime, NodeFacts, RanksFacts
from .probes import is_free, look_at_folder, look_at_node
from .verdicts import Finding

_EPILOG = """\
examples:
  relaunch doctor
  relaunch doctor --nproc-per-node 4 --run-dir /scratch/runs --save-size 28GB
  relaunch doctor --run-dir DIR      (in a batch script of the job, before the run)

In a Slurm job it starts ranks on all nodes, like a run, and compares the nodes.
Exit codes: 0 fine or warnings, 1 a failure, 2 wrong usage.
"""
_PORT = 29500
_ON_CPU = 2
_LEFT_S = 10.0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of everything after `relaunch doctor`."""
    parser = CommandParser(
        prog="relaunch doctor",
        description="Check this machine, or all nodes of a job; print one line per check.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add(
        "--run-dir",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="folder of the runs (default: runs)",
    )
    add("--nproc-per-node", type=int, metavar="N", help="ranks (default: one per GPU, else 2)")
    add("--save-size", type=byte_size, metavar="SIZE", help="bytes of a save; see relaunch plan")
    add(
        "--master-port",
        type=int,
        default=_PORT,
        metavar="PORT",
        help=f"where nodes will meet (default {_PORT})",
    )
    add(
        "--timeout",
        type=float,
        default=180.0,
        metavar="S",
        help="seconds for the ranks (default 180)",
    )
    add("--no-ranks", action="store_true", help="start no ranks; check only this machine")
    add("--json", action="store_true", help="print one JSON document")
    return parser


def run(argv: Sequence[str]) -> int:
    """Run `relaunch doctor` and return the exit code.

    Raises:
        UsageError: the words are wrong.
        SystemExit: 0, after `--help` was printed.
    """
    given = build_parser().parse_args(argv)
    for name in ("nproc_per_node", "timeout"):
        value = getattr(given, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} {value:g} must be above 0.")
    if not 0 < given.master_port < 1 << 16:
        raise UsageError(f"--master-port {given.master_port} is not a port.")
    machine = Machine.here(os.environ)
    count = given.nproc_per_node or machine.num_gpus or _ON_CPU
    if not given.no_ranks:
        _require_gpus(count, machine)
    here = look_at_node()
    folder = look_at_folder(given.run_dir.absolute())
    answer: Mapping[str, Any] | str = "left out by --no-ranks"
    if not given.no_ranks:
        say(f"starting {count} ranks{' on each node' if _in_job(os.environ) else ''}")
        answer = _ask_ranks(given, count, folder)
    findings = judge(
        given, here, folder, answer, count=count, job=_job_time(os.environ, time.time())
    )
    if given.json:
        print(json.dumps(verdicts.document(findings)))
    else:
        print("\n".join(verdicts.lines(findings)))
    return verdicts.exit_code(findings)


def _require_gpus(count: int, machine: Machine) -> None:
    """Refuse ranks that could not come together.

    Raises:
        UsageError: there are fewer GPUs than ranks, and NCCL needs one for each.
    """
    if 0 < machine.num_gpus < count and not machine.shares_gpus:
        raise UsageError(
            f"--nproc-per-node {count}, but this machine shows {machine.describe_gpus()}, and NCCL "
            f"needs one for each rank. Pass --nproc-per-node {machine.num_gpus}, or set "
            "RELAUNCH_CUDA_BACKEND=gloo to measure through the host, as a run with that would be."
        )


def judge(
    given: argparse.Namespace,
    here: NodeFacts,
    folder: FolderFacts,
    answer: Mapping[str, Any] | str,
    *,
    count: int,
    job: JobTime | None,
) -> list[Finding]:
    """Return all lines of the report.

    Args:
        given: the options.
        here: this node.
        folder: the run folder.
        answer: what the ranks found, or why they found nothing.
        count: ranks on a node.
        job: of a batch system; None: there is none.
    """
    nodes, ranks, problem = [here], None, ""
    if isinstance(answer, str):
        problem = answer
    else:
        nodes = [NodeFacts.of(node) for node in answer["nodes"]]
        ranks = RanksFacts.of(answer["ranks"])
    several = len(nodes) > 1
    save_time_s = verdicts.save_s(folder, given.save_size or verdicts.MODEL_BYTES)
    return [
        verdicts.versions(nodes),
        *verdicts.gpus([here] if not several else nodes),
        *(
            [verdicts.left_out("all-reduce", problem)]
            if given.no_ranks
            else verdicts.ranks(ranks, problem)
        ),
        *verdicts.folder(folder, given.save_size),
        *verdicts.limits(nodes, count, given.save_size),
        *verdicts.network(
            nodes,
            several=several,
            port=given.master_port,
            port_is_free=is_free(given.master_port),
        ),
        *verdicts.job_time(job, save_time_s),
    ]


def _in_job(environ: Mapping[str, str]) -> bool:
    return "SLURM_JOB_ID" in environ


def _ask_ranks(
    given: argparse.Namespace, count: int, folder: FolderFacts
) -> Mapping[str, Any] | str:
    """Start the ranks as a run would be; return what they found, or why they found nothing."""
    # All nodes of a job see the run folder, and not each other's /tmp.
    place = given.run_dir.absolute() if not folder.problem else None
    with _made(place), tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as scratch:
        answer = Path(scratch) / "answer.json"
        code, text = _run_ranks(given, count, answer, Path(scratch))
        with suppress(OSError, ValueError):
            found: Mapping[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
            return found
    if code is None:
        return f"no answer within {given.timeout:g} s (--timeout)"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition("error: ")[2] for line in lines if "relaunch: error: " in line]
    return (errors or lines or [f"exit code {code}"])[-1]


@contextmanager
def _made(place: Path | None) -> Iterator[None]:
    """Make a folder, and remove what was made of its path at the end."""
    made = [] if place is None else [one for one in (place, *place.parents) if not one.exists()]
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for one in made:
            with suppress(OSError):  # a run has begun there meanwhile
                one.rmdir()


def _run_ranks(
    given: argparse.Namespace, count: int, answer: Path, scratch: Path
) -> tuple[int | None, str]:
    """Run the probe's ranks to their end; return the exit code, None after the time, and output."""
    words = [
        *(sys.executable, "-I", "-S", exec_worker.__file__, str(os.getpid())),
        *(sys.executable, "-c", OWN_START),
        *("--run-dir", str(scratch / "run"), "--nproc-per-node", str(count)),
        *("--module", f"{__package__}.probe_ranks", str(answer)),
    ]
    environ = {name: value for name, value in os.environ.items() if name not in OWN_NAMES}
    root = str(Path(__file__).parents[3])
    environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    output = scratch / "output.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            words, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        code: int | None = None
        try:
            code = process.wait(given.timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LEFT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return code, output.read_text(encoding="utf-8", errors="replace")


def _job_time(environ: Mapping[str, str], now_s: float) -> JobTime | None:
    """Return what Slurm gives this job; None outside of one."""
    if not _in_job(environ):
        return None
    scontrol = Scontrol()
    job = scontrol.job(environ["SLURM_JOB_ID"])
    if job is None:
        return JobTime(problem=scontrol.problem or "Slurm does not know this job")
    site = scontrol.site(job.partition)
    return job_time_of(job, site.grace_s, site.kill_wait_s, now_s)


def job_time_of(
    job: JobFacts, grace_s: float | None, kill_wait_s: float | None, now_s: float
) -> JobTime:
    """Return the times of a job that started to be counted now. Pure."""
    left_s = None if job.end_time_s is None else max(0.0, job.end_time_s - now_s)
    return JobTime(
        left_s=left_s, grace_s=grace_s, kill_wait_s=kill_wait_s, may_requeue=job.may_requeue
    )
