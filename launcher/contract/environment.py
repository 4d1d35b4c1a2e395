"""The environment of a rank: read by one function, written by one pure function.

The names up to OMP_NUM_THREADS are torchrun's contract, so that `dist.init_process_group()`,
`is_torchelastic_launched()` and `@record` work unchanged. Ours begin with RELAUNCH_.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from .planned_machines import PLAN, PlannedMachines
from .run_options import VARIABLES, RunOptions
from .trial import TRIAL, TrialSettings

RUN_ID = "RELAUNCH_RUN_ID"
START_DIR = "RELAUNCH_START_DIR"
ATTEMPT = "RELAUNCH_ATTEMPT"
WARNING_FILE = "RELAUNCH_WARNING_FILE"
HEARTBEAT_FILE = "RELAUNCH_HEARTBEAT_FILE"
STACKS_FILE = "RELAUNCH_STACKS_FILE"
FOLDER_FILE = "RELAUNCH_FOLDER_FILE"
LEAVING_FILE = "RELAUNCH_LEAVING_FILE"
CPUS = "RELAUNCH_CPUS"
"""The CPUs to which a rank is bound as it starts, with commas between them."""
SECRET = "RELAUNCH_SECRET"
"""The secret of the launchers of several nodes; no rank gets it."""
END_TIME = "RELAUNCH_END_TIME"
GRACE = "RELAUNCH_GRACE_S"
HAND_OVER = "RELAUNCH_SLURM"
"""Settings from the batch step's process to the agents; not for the ranks."""
RAY_NOTICE = "RELAUNCH_RAY_NOTICE"
"""Where the bridge to Ray Train writes what Ray says of a preemption; for the launcher alone."""
CUDA_BACKEND = "RELAUNCH_CUDA_BACKEND"
"""The user's: "gloo" lets ranks share GPUs, to try a run of several ranks on fewer GPUs."""
INTERFACE_NAMES = ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
NCCL_TRACE_NAMES = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
"""Where torch writes NCCL's flight recorder, followed by the rank; the second until torch 2.8."""
NCCL_PIPE_NAME = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
"""Before the rank and ".pipe", the pipe at which torch listens for the question for that record."""
NCCL_TRACE = "nccl-trace-rank-"
"""How the names of these files begin in an attempt's folder of logs."""
_NCCL_PIPE = "nccl-dump-"
NCCL_INTERFACE = "NCCL_SOCKET_IFNAME"
CUDA_DEVICES = "CUDA_VISIBLE_DEVICES"
HIP_DEVICES = "HIP_VISIBLE_DEVICES"
"""As CUDA_DEVICES, over which it wins on ROCm; elsewhere it means nothing."""

OWN_NAMES = VARIABLES | {
    *(RUN_ID, SECRET, ATTEMPT, WARNING_FILE, HEARTBEAT_FILE, STACKS_FILE, FOLDER_FILE),
    *(CPUS, PLAN, START_DIR, LEAVING_FILE, END_TIME, GRACE, HAND_OVER, RAY_NOTICE),
}

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a batch system will take the machines away; None where nothing is known."""

    end_time_s: float | None = None
    """The end of the job's time, in seconds since the epoch."""
    grace_s: float | None = None
    """From a preemption notice to SIGKILL; 0: there is no grace."""
    kill_wait_s: float | None = None
    """From SIGTERM to SIGKILL in any other case."""


_ARRAYS = ("SLURM_ARRAY_TASK_ID", "SGE_TASK_ID", "PBS_ARRAY_INDEX", "LSB_JOBINDEX")


def _is_element(environ: Mapping[str, str], name: str) -> bool:
    """Return whether a variable numbers an element; outside of arrays some have another text."""
    value = environ.get(name, "")
    return value.isdecimal() and (name != "LSB_JOBINDEX" or value != "0")


@dataclass(frozen=True, kw_only=True)
class RankEnvironment:
    """What a rank knows about its place and about what was asked on the command line."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    node_rank: int
    restart_count: int
    run_id: str
    """This start of the command; empty under plain `python train.py`."""
    launched: bool
    """False: plain `python train.py`, rank 0 of 1."""
    run: RunOptions
    error_file: Path | None
    """Where this rank may leave the reason of its failure for the launcher."""
    warning_file: Path | None
    """Where the launcher writes the cause and the deadline of a notice."""
    heartbeat_file: Path | None
    """Where this rank writes its heartbeat."""
    stacks_file: Path | None
    """Where this rank writes its stacks when it is asked to."""
    cuda_backend: str | None = None
    """What sums tensors of GPUs over the ranks: "gloo", or None for NCCL."""
    planned: PlannedMachines | None = None
    """Machines that are not there: the script reports what it would need, and ends."""
    trial: TrialSettings | None = None
    """A few steps are to be observed, and the run ends after them."""
    attempt: int = 1
    """The lowest number that this start may have in the run's folder."""
    folder_file: Path | None = None
    """Where this rank writes the path of the run folder."""
    start_dir: Path | None = None
    """The launcher's working folder: the script may change its own before it comes to `Run`."""
    leaving_file: Path | None = None
    """Where this rank notes that all is saved, and its exit code."""
    end_time_s: float | None = None
    """The end of the job's time, in seconds since the epoch; None: no limit is known."""
    grace_s: float | None = None
    """From a notice to SIGKILL: --grace, or what a batch system gives; None: not known."""
    has_threads: bool = False
    """Whether OMP_NUM_THREADS says with how many threads to compute."""
    tunes_malloc: bool = False
    """Whether variables say how the C library's allocator is to work, or which one is used."""
    array_variable: str | None = None
    """The variable that numbers the elements of a job array; None: this is no element of one."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"RANK={self.rank} is not in WORLD_SIZE={self.world_size}")
        if not 0 <= self.local_rank < self.local_world_size:
            raise ValueError(
                f"LOCAL_RANK={self.local_rank} is not in LOCAL_WORLD_SIZE={self.local_world_size}"
            )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "RankEnvironment":
        """Read the environment; the only place that does. Called once in each rank.

        Raises:
            ValueError: RANK or WORLD_SIZE is given without the other, or a number is not one.
        """
        if ("RANK" in environ) != ("WORLD_SIZE" in environ):
            given, missing = ("RANK", "WORLD_SIZE") if "RANK" in environ else ("WORLD_SIZE", "RANK")
            raise ValueError(
                f"the environment has {given}={environ[given]} but no {missing}. Set both "
                f"(relaunch and torchrun do), or neither for one process."
            )
        world_size = _number(environ, "WORLD_SIZE", 1)
        return cls(
            rank=_number(environ, "RANK", 0),
            local_rank=_number(environ, "LOCAL_RANK", 0),
            world_size=world_size,
            local_world_size=_number(environ, "LOCAL_WORLD_SIZE", world_size),
            node_rank=_number(environ, "GROUP_RANK", 0),
            restart_count=_number(environ, "TORCHELASTIC_RESTART_COUNT", 0),
            run_id=environ.get(RUN_ID) or environ.get("TORCHELASTIC_RUN_ID", ""),
            launched="RANK" in environ,
            run=RunOptions.from_environ(environ),
            has_threads=bool(environ.get("OMP_NUM_THREADS")),
            tunes_malloc=any(
                name in ("GLIBC_TUNABLES", "LD_PRELOAD") or name.startswith("MALLOC_")
                for name in environ
            ),
            error_file=_path(environ, "TORCHELASTIC_ERROR_FILE"),
            warning_file=_path(environ, WARNING_FILE),
            heartbeat_file=_path(environ, HEARTBEAT_FILE),
            stacks_file=_path(environ, STACKS_FILE),
            cuda_backend=cuda_backend(environ),
            planned=PlannedMachines.of(environ.get(PLAN)),
            trial=TrialSettings.of(environ.get(TRIAL)),
            attempt=_number(environ, ATTEMPT, 1),
            folder_file=_path(environ, FOLDER_FILE),
            start_dir=_path(environ, START_DIR),
            leaving_file=_path(environ, LEAVING_FILE),
            end_time_s=_parsed(environ, END_TIME, float, "a number"),
            grace_s=_parsed(environ, GRACE, float, "a number"),
            array_variable=next((name for name in _ARRAYS if _is_element(environ, name)), None),
        )


@dataclass(frozen=True, kw_only=True)
class WorkerPlace:
    """A worker's place in the worker group, in torch elastic's words."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    group_rank: int
    group_world_size: int
    role_rank: int
    role_world_size: int
    role_name: str


@dataclass(frozen=True, kw_only=True)
class RankFiles:
    """The small files between the launcher and one rank, in the attempt's scratch folder."""

    error: Path
    heartbeat: Path
    stacks: Path
    folder: Path
    leaving: Path
    nccl_pipe: Path
    """Made by torch, where the ranks have NCCL."""

    @classmethod
    def of(cls, folder: Path, rank: int) -> "RankFiles":
        """Return the files of a rank."""
        return cls(
            error=folder / f"rank-{rank}-error.json",
            heartbeat=folder / f"rank-{rank}-heartbeat",
            stacks=folder / f"rank-{rank}-stacks",
            folder=folder / f"rank-{rank}-folder",
            leaving=folder / f"rank-{rank}-leaving",
            nccl_pipe=folder / f"{_NCCL_PIPE}{rank}.pipe",
        )


@dataclass(frozen=True, kw_only=True)
class GroupSettings:
    """What all workers of one attempt on this node have in common."""

    master_addr: str
    master_port: int
    restart_count: int
    max_restarts: int
    run_id: str
    """This start of the command; the mark of its processes."""
    rendezvous_id: str
    """torchrun's --rdzv-id."""
    virtual_local_rank: bool
    cpus: tuple[tuple[int, ...], ...] = ()
    """The CPUs to which each local rank is bound; (): to none."""
    interface: str | None
    """The network interface towards the other ranks; None leaves the choice to gloo and NCCL."""
    run: RunOptions
    warning_file: Path
    start_dir: Path | None = None
    """The launcher's working folder."""
    attempt: int | None = None
    """Its number in the run's folder; None where the folder is left to the script."""
    log_folder: Path | None = None
    """Of this attempt, on this node; None: no logs are written."""
    limits: Limits = field(default_factory=Limits)


def worker_environment(
    place: WorkerPlace,
    settings: GroupSettings,
    *,
    files: RankFiles,
    inherited: Mapping[str, str],
) -> dict[str, str]:
    """Return the whole environment of one worker: inherited variables, defaults and settings."""
    settled = _settled(place, settings, files)
    if settings.virtual_local_rank:
        settled |= {"LOCAL_RANK": "0", **only_devices(inherited, place.local_rank)}
    # A relaunch started inside a rank must not pass that rank's own settings on.
    kept = {name: value for name, value in inherited.items() if name not in OWN_NAMES}
    return {**_defaults(place, settings, files), **kept, **settled}


def _settled(place: WorkerPlace, settings: GroupSettings, files: RankFiles) -> dict[str, str]:
    """Return the variables that the launcher sets, whatever the environment has."""
    values = {
        "RANK": str(place.rank),
        "LOCAL_RANK": str(place.local_rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "GROUP_RANK": str(place.group_rank),
        "GROUP_WORLD_SIZE": str(place.group_world_size),
        "ROLE_RANK": str(place.role_rank),
        "ROLE_NAME": place.role_name,
        "ROLE_WORLD_SIZE": str(place.role_world_size),
        "MASTER_ADDR": settings.master_addr,
        "MASTER_PORT": str(settings.master_port),
        "TORCHELASTIC_RESTART_COUNT": str(settings.restart_count),
        "TORCHELASTIC_MAX_RESTARTS": str(settings.max_restarts),
        "TORCHELASTIC_RUN_ID": settings.rendezvous_id,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_ERROR_FILE": str(files.error),
        **settings.run.to_environ(),
        RUN_ID: settings.run_id,
        WARNING_FILE: str(settings.warning_file),
        HEARTBEAT_FILE: str(files.heartbeat),
        STACKS_FILE: str(files.stacks),
        FOLDER_FILE: str(files.folder),
        LEAVING_FILE: str(files.leaving),
        START_DIR: None if settings.start_dir is None else str(settings.start_dir),
        ATTEMPT: None if settings.attempt is None else str(settings.attempt),
        CPUS: ",".join(map(str, settings.cpus[place.local_rank])) if settings.cpus else None,
        END_TIME: _text(settings.limits.end_time_s),
        GRACE: _text(settings.limits.grace_s),
    }
    return {name: value for name, value in values.items() if value is not None}


def _defaults(place: WorkerPlace, settings: GroupSettings, files: RankFiles) -> dict[str, str]:
    """Return the variables that a worker gets unless the environment has them."""
    defaults = default_environment(place.local_world_size)
    if settings.log_folder is not None:
        # Where NCCL gives up, the collectives of each rank; by default they go to /tmp.
        defaults |= dict.fromkeys(NCCL_TRACE_NAMES, str(settings.log_folder / NCCL_TRACE))
        defaults[NCCL_PIPE_NAME] = str(files.nccl_pipe.with_name(_NCCL_PIPE))
    if settings.interface is not None:
        # Otherwise they listen on whatever interface the host's name stands for.
        defaults |= dict.fromkeys(INTERFACE_NAMES, settings.interface)
        if place.group_world_size > 1:
            # "=": this very name. Without it NCCL takes every interface whose name begins so.
            defaults[NCCL_INTERFACE] = f"={settings.interface}"
    return defaults


def default_environment(local_world_size: int) -> dict[str, str]:
    """Return the defaults that depend only on the number of ranks on the node."""
    defaults = {
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        # Or NCCL's own thread ends the process for an error of CUDA before the main thread, which
        # meets it too, has written what it was.
        "TORCH_NCCL_RETHROW_CUDA_ERRORS": "0",
    }
    if local_world_size > 1:
        defaults["OMP_NUM_THREADS"] = "1"
    return defaults


def cuda_backend(environ: Mapping[str, str]) -> str | None:
    """Return "gloo" where ranks are to share GPUs, None for NCCL.

    Raises:
        ValueError: the variable has another value.
    """
    given = environ.get(CUDA_BACKEND) or "nccl"
    if given not in ("nccl", "gloo"):
        raise ValueError(
            f'{CUDA_BACKEND}="{given}"; it can be nccl (as without it), or gloo, with which '
            "several ranks can share a GPU"
        )
    return "gloo" if given == "gloo" else None


def only_devices(inherited: Mapping[str, str], local_rank: int) -> dict[str, str]:
    """Return the variables that show a local rank its one GPU: each that is given, else CUDA's."""
    given = [name for name in (HIP_DEVICES, CUDA_DEVICES) if name in inherited]
    return {n: only_device(inherited.get(n), local_rank) for n in given or [CUDA_DEVICES]}


def only_device(visible: str | None, local_rank: int) -> str:
    """Return such a variable's value for the one GPU of a local rank; empty where it has none."""
    if visible is None:
        return str(local_rank)
    devices = visible.split(",")
    return devices[local_rank].strip() if local_rank < len(devices) else ""


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    found = _parsed(environ, name, int, "a whole number")
    return default if found is None else found


def _parsed(
    environ: Mapping[str, str], name: str, read: Callable[[str], _Number], what: str
) -> _Number | None:
    text = environ.get(name)
    if text is None:
        return None
    try:
        return read(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} in the environment is not {what}") from None


def _text(number: float | None) -> str | None:
    return None if number is None else repr(number)


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    text = environ.get(name)
    return Path(text) if text else None
