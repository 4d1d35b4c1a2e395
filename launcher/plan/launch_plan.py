"""From what was asked and what the machine has to one resolved plan, or one sentence why not."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from strategies.errors import ConfigError
from strategies.parallel.zero.required import STRATEGIES as ZERO_STRATEGIES
from strategies.parallel.zero.required import installed, require

from ..contract.environment import Limits
from ..contract.run_options import RunOptions
from ..errors import UsageError
from ..run_folder.plain_files import NO_ROOM, open_plain, write_all
from .cpu_binding import Cpus, bind, read_topology
from .gpu_nodes import gpu_nodes
from .machine import Machine
from .options import LaunchOptions, NodeOptions, StreamOptions
from .program import Program, ProgramKind
from .program_source import ProgramSource, read_source
from .secret import RunSecret

_SHARING = ("ddp", "fsdp")
"""Strategies whose ranks can share a GPU; others set their device by LOCAL_RANK."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """All that is needed to start the ranks of this node."""

    program: Program
    source: ProgramSource = field(default_factory=ProgramSource, repr=False)
    uses_run: bool
    """The script, or a module beside it, imports `launcher`: each rank will soon handle SIGTERM."""
    starts_run: bool = False
    """It calls `Run.start`, which receives the SIGINT that was held back until then."""
    local_world_size: int
    run: RunOptions
    """Its folders as absolute paths."""
    log_dir: Path | None
    """Where `attempt-K/rank-N.log` are written; None: all ranks write to the console."""
    streams: StreamOptions
    nodes: NodeOptions
    master_addr: str
    master_port: int
    """0: a free one."""
    role: str
    virtual_local_rank: bool
    max_restarts: int
    grace_s: float | None
    terminate_s: float | None
    hang_timeout_s: float | None
    cold: bool
    """Every rank is a Python of its own; else a fork of the fork server."""
    preload: tuple[str, ...]
    cpus: tuple[Cpus, ...] = ()
    """The CPUs of each local rank; (): they may use all that this process may."""
    secret: RunSecret = field(default_factory=RunSecret)
    """What the nodes share; `make_plan` does not read it."""
    limits: Limits = field(default_factory=Limits)
    """When a batch system will take the machines away."""


def _whole_place(text: str | None) -> str | None:
    """Return a place for checkpoints that means the same in every working folder.

    Raises:
        UsageError: It is none, or what it needs is not installed.
    """
    if text is None:
        return None
    from checkpointing import PlaceError, is_url, require_place  # not for every start

    try:
        require_place(text)
    except PlaceError as error:
        raise UsageError(f"--checkpoints {error}") from error
    return text if is_url(text) else str(Path(text).resolve())


def make_plan(options: LaunchOptions, machine: Machine) -> LaunchPlan:
    """Resolve the options; changes nothing on this machine.

    Raises:
        UsageError: What was asked cannot be done on this machine.
    """
    program = Program(kind=options.kind, name=options.script, args=options.script_args)
    source = read_source(program)
    uses_run = source.uses_run()
    local_world_size = resolve_nproc(options, machine, uses_run=uses_run)
    if options.run.precision == "fp16" and machine.num_gpus == 0:
        is_plain = machine.cuda_visible_devices is None and not machine.out_of_reach
        shown = "" if is_plain else f": {machine.describe_gpus()}"
        raise UsageError(
            f"fp16 needs a GPU; this machine shows none{shown}. Use --precision bf16 or fp32."
        )
    run_dir = None if options.run.run_dir is None else options.run.run_dir.resolve()
    log_dir = None if options.log_dir is None else options.log_dir.resolve()
    if log_dir is None and run_dir is not None:
        log_dir = run_dir / "logs"
    return LaunchPlan(
        program=program,
        source=source,
        uses_run=uses_run,
        starts_run=uses_run and source.calls_run_start(),
        local_world_size=local_world_size,
        run=replace(
            options.run, run_dir=run_dir, checkpoints=_whole_place(options.run.checkpoints)
        ),
        log_dir=log_dir,
        streams=options.streams,
        nodes=options.nodes,
        master_addr=options.nodes.master_addr or LOOPBACK,
        master_port=options.nodes.master_port or 0,
        role=options.role,
        virtual_local_rank=options.virtual_local_rank,
        max_restarts=options.max_restarts,
        grace_s=options.grace_s,
        terminate_s=options.terminate_s,
        hang_timeout_s=options.hang_timeout_s,
        cold=options.cold,
        preload=options.preload,
    )


def bind_ranks(plan: LaunchPlan, mode: str | None, machine: Machine) -> LaunchPlan:
    """Return the plan with the CPUs of each local rank; on the machine where they will run.

    Args:
        plan: Without them.
        mode: One of `cpu_binding.MODES`; None: ranks are not to be bound.
        machine: This one.

    Raises:
        UsageError: A rank would get no CPU, or it is not known where the GPUs are.
    """
    if mode is None:
        return plan
    nproc = plan.local_world_size
    homes: list[int | None] = [None] * nproc
    if machine.num_gpus:
        nodes = gpu_nodes(machine.devices) if machine.devices else None
        if nodes is None:
            raise UsageError(
                f"--numa-binding {mode}: it is not known at which NUMA node each of "
                f"{machine.describe_gpus()} is; NVIDIA's driver gives it for an index or a full "
                "UUID. Leave --numa-binding out."
            )
        homes = [nodes[rank % len(nodes)] for rank in range(nproc)]
    return replace(plan, cpus=bind(mode, read_topology(os.sched_getaffinity(0)), homes))


def resolve_nproc(options: LaunchOptions, machine: Machine, *, uses_run: bool) -> int:
    """Return the number of ranks on this machine; pure.

    Raises:
        UsageError: More GPUs are needed than are visible, or `single` is to have several ranks.
    """
    asked = options.nproc_per_node
    if asked == "gpu" and machine.num_gpus == 0:
        raise UsageError(
            f"--nproc-per-node gpu, but this machine shows {machine.describe_gpus()}. "
            "Pass a number or cpu."
        )
    words = {
        None: 1 if options.run.strategy == "single" else machine.num_gpus or 1,
        "gpu": machine.num_gpus,
        "cpu": machine.num_cpus,
        "auto": machine.num_gpus or machine.num_cpus,
    }
    nproc = asked if isinstance(asked, int) else words[asked]
    # A script of another kind may well run several ranks per GPU or on the CPU: it decides.
    is_ours = uses_run or options.run.strategy is not None or options.run.precision is not None
    if is_ours and 0 < machine.num_gpus < nproc and machine.shares_gpus:
        if options.run.strategy not in (None, "auto", *_SHARING):
            raise UsageError(
                f"--strategy {options.run.strategy} gives each rank a GPU, but this machine shows "
                f"{machine.describe_gpus()} for {nproc} ranks. With RELAUNCH_CUDA_BACKEND=gloo "
                f"pass --strategy {' or '.join(_SHARING)}, or --nproc-per-node {machine.num_gpus}."
            )
    elif is_ours and 0 < machine.num_gpus < nproc:
        raise UsageError(
            f"--nproc-per-node {asked} is {nproc} ranks, but this machine shows "
            f"{machine.describe_gpus()}. Pass --nproc-per-node {machine.num_gpus}, or hide the "
            f"GPUs with {machine.variable}= to train on the CPU. To try a run of several ranks on "
            "fewer GPUs, set RELAUNCH_CUDA_BACKEND=gloo."
        )
    if options.run.strategy == "single" and nproc > 1:
        raise UsageError(
            f"--strategy single is one rank, but --nproc-per-node {asked} is {nproc}. "
            "Pass --nproc-per-node 1 or another strategy."
        )
    return nproc


def sharing_note(num_ranks: int, machine: Machine) -> str | None:
    """Return what is to be said once where ranks share GPUs; None: they do not. Pure."""
    if not machine.shares_gpus or not 0 < machine.num_gpus < num_ranks:
        return None
    return (
        f"RELAUNCH_CUDA_BACKEND=gloo: {num_ranks} ranks share "
        f"{machine.describe_gpus()}, and communicate through the host. Use this only for tests: "
        "speed and memory are not those of a real run."
    )


def out_of_reach_note(num_ranks: int, machine: Machine) -> str | None:
    """Return what is said where ranks cannot use the machine's GPUs; None: they can. Pure."""
    if not machine.out_of_reach:
        return None
    return (
        f"{num_ranks} rank{'s' * (num_ranks > 1)} on the CPU: this machine shows "
        f"{machine.describe_gpus()}. CUDA_VISIBLE_DEVICES= says that this is meant."
    )


def require_engine(plan: LaunchPlan) -> None:
    """Prove that the package which the strategy is built on is installed; imports it not.

    Raises:
        UsageError: It is not, or too old.
    """
    # Another program than this Python may well find other packages.
    if plan.run.strategy not in ZERO_STRATEGIES or plan.program.kind is ProgramKind.COMMAND:
        return
    try:
        require(plan.run.strategy, installed())
    except ConfigError as error:
        raise UsageError(str(error)) from error


def prepare_run_folder(asked: Path | None) -> None:
    """Create the run folder and prove that a file can be written there; permissions alone lie.

    That it is full is for the ranks to judge, which know whether there is a checkpoint.

    Raises:
        UsageError: It cannot be written.
    """
    if asked is None:
        return
    try:
        asked.mkdir(parents=True, exist_ok=True)
        probe = asked / f".relaunch-{os.getpid()}"
        fd = open_plain(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            write_all(fd, b"may this process write here?")
        finally:
            os.close(fd)
            probe.unlink()
    except OSError as error:
        if error.errno in NO_ROOM:
            return
        where = error.filename if isinstance(error.filename, str) else asked
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(
            f"--run-dir {asked} cannot be written ({_in_the_way(asked) or f'{where}: {reason}'}). "
            "Pass another folder."
        ) from None


def _in_the_way(asked: Path) -> str | None:
    """Return what keeps a folder, or one above it, from being made, None if nothing does."""
    for path in (asked, *asked.parents):
        if path.is_symlink() and not path.exists():
            return f"{path} is a link to {os.readlink(path)}, which does not exist"
        if path.exists():
            return None if path.is_dir() else f"{path} is a file"
    return None
