"""What a worker of Ray Train decides: the launcher's command, and what its end means; pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from strategies import ConfigError

from ...contract.environment import CUDA_DEVICES, HIP_DEVICES, RAY_NOTICE, SECRET
from ...contract.exit_codes import CONTINUE, DO_NOT_RETRY, DONE, USAGE
from ...contract.own_command import OWN_START

TEARDOWN_S = 600.0
"""How long after its deadline Ray is awaited; it looks every 2 s, and ends the workers itself."""
NO_DEADLINE_S = 120.0
"""What Ray waits where a preemption has no deadline."""
LINGER_S = 15.0
"""How long a worker whose launcher has failed waits for that of rank 0, which may know more."""
END_S = 60.0
"""How long a launcher may outlive that of rank 0."""

_PLACED = frozenset(
    ("nnodes", "node_rank", "master_addr", "master_port", "local_addr", "standalone", "run_dir")
) | {"nproc_per_node", "rdzv_backend", "rdzv_endpoint", "rdzv_id", "rdzv_conf", "secret_file"}
_OF_RAYS_RANKS = frozenset(
    ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
) | {"MASTER_ADDR", "MASTER_PORT", "ACCELERATE_TORCH_DEVICE"}
_FINAL = (USAGE, DO_NOT_RETRY)
_OWN_LINE = "relaunch: "

Option = str | int | float | bool | Path | None


class RunPreempted(RuntimeError):
    """The ranks have left after a notice; the run resumes at its next start.

    Raised for Ray, which takes a function that returns for a finished run.
    """


class RunRefused(RuntimeError):
    """The run would end the same way if it were started again (exit codes 2 and 93)."""


class RunFailed(RuntimeError):
    """The launcher has ended with another exit code."""


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where the launchers of all workers meet; rank 0 chooses it for all."""

    addr: str
    port: int
    secret: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """A worker's place among those of Ray."""

    rank: int
    num_workers: int
    addr: str
    """Of its node, as the other nodes see it."""
    gpus: tuple[str, ...]
    """Those that Ray has given to this worker."""
    name: str
    """Of the run, as Ray knows it."""


def option_words(options: Mapping[str, Option]) -> tuple[str, ...]:
    """Return options as they are written on the command line.

    Args:
        options: By their names with underscores; True is a flag, None and False are not given.

    Raises:
        ConfigError: one of them follows from Ray's workers.
    """
    if placed := sorted(_PLACED & options.keys()):
        raise ConfigError(
            f"{', '.join(placed)} cannot be given to RelaunchTrainLoop: nodes and addresses follow "
            "from Ray's workers. Choose the number of nodes with ScalingConfig(num_workers=...)."
        )
    words: list[str] = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += (option, str(value))
    return tuple(words)


def command_of(
    place: Place,
    meeting: Meeting,
    *,
    run_dir: Path,
    nproc_per_node: int | None,
    options: Sequence[str],
    script: Sequence[str],
    settings: Mapping[str, object],
) -> list[str]:
    """Return the command of the launcher on this worker.

    Args:
        place: This worker.
        meeting: Where the launchers meet.
        run_dir: The run folder.
        nproc_per_node: Ranks on this worker; None: one for each of its GPUs, at least one.
        options: More options of the launcher.
        script: The script and its arguments.
        settings: Ray's `train_loop_config`, which follows as --NAME=VALUE.
    """
    ranks = nproc_per_node or max(1, len(place.gpus))
    words = [sys.executable, "-c", OWN_START, "--run-dir", str(run_dir)]
    words += ("--nproc-per-node", str(ranks))
    if place.num_workers > 1:
        words += ("--nnodes", str(place.num_workers), "--node-rank", str(place.rank))
        words += ("--master-addr", meeting.addr, "--master-port", str(meeting.port))
        words += ("--local-addr", place.addr, "--rdzv-id", place.name)
    return [*words, *options, *script, *(f"--{name}={value}" for name, value in settings.items())]


def environment_of(
    inherited: Mapping[str, str], place: Place, meeting: Meeting, notice_file: Path
) -> dict[str, str]:
    """Return the launcher's environment: the worker's, without the rank that Ray has made of it.

    Ray may show a worker the GPUs of all workers of its node; the launcher counts its own.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in _OF_RAYS_RANKS and not name.startswith("PET_")
    }
    kept |= {SECRET: meeting.secret, RAY_NOTICE: str(notice_file)}
    if place.gpus:
        names = [name for name in (HIP_DEVICES, CUDA_DEVICES) if name in kept] or [CUDA_DEVICES]
        kept |= dict.fromkeys(names, ",".join(place.gpus))
    return kept


def run_folder_of(given: Path | None, storage: str | None, shown: str) -> Path:
    """Return the run folder.

    Args:
        given: As `run_dir`.
        storage: Ray's folder of this run; None: it is on no file system.
        shown: Where Ray stores it, for the message.

    Raises:
        ConfigError: there is none.
    """
    if given is not None:
        return given
    if storage is None:
        raise ConfigError(
            f"Ray stores this run at {shown}, which is no folder that all nodes can open. Pass "
            "RelaunchTrainLoop(..., run_dir=FOLDER) with a folder on a file system that the nodes "
            'share; checkpoints may be elsewhere: checkpoints="s3://...".'
        )
    return Path(storage)


def is_watch_over(
    *, first_has_ended: bool, code: int | None, ended_since_s: float, was_noticed: bool
) -> bool:
    """Return whether a worker stops calling Ray together with the others.

    Args:
        first_has_ended: Whether the launcher of rank 0 has, as all workers know.
        code: Of this worker's launcher; None: it runs.
        ended_since_s: For how long it has ended.
        was_noticed: Whether Ray has announced a preemption.
    """
    if first_has_ended:
        return True
    # A worker that raises alone lets Ray end all others: right after a failure, and then only.
    has_failed = code not in (None, DONE, CONTINUE)
    return has_failed and not was_noticed and ended_since_s >= LINGER_S


def awaits_teardown(code: int, was_noticed: bool) -> bool:
    """Return whether to leave the end to Ray, which then counts a preemption and no failure.

    Also after a failure: with a node that is taken away, connections of its peers break.
    """
    return was_noticed and code not in (DONE, *_FINAL)


def teardown_at_s(deadline_s: float | None, noticed_at_s: float) -> float:
    """Return until when Ray is awaited, in seconds since the epoch."""
    return (noticed_at_s + NO_DEADLINE_S if deadline_s is None else deadline_s) + TEARDOWN_S


def error_of(code: int, rank: int, lines: Sequence[str], run_dir: Path) -> RuntimeError | None:
    """Return what is raised for an exit code of the launcher; None: the run is complete.

    Args:
        code: Of the launcher.
        rank: Of this worker.
        lines: The end of the launcher's output.
        run_dir: The run folder.
    """
    if code == DONE:
        return None
    own = [line.removeprefix(_OWN_LINE) for line in lines if line.startswith(_OWN_LINE)]
    if code == CONTINUE:
        said = f" {own[-1]}" if own else ""
        return RunPreempted(
            f"The ranks have exited after a preemption notice.{said} The run in {run_dir} resumes "
            "at its next start."
        )
    if code in _FINAL:
        said = own[-1].removeprefix("error: ") if own else f"See {run_dir}/logs."
        return RunRefused(f"relaunch ended with exit code {code} on worker {rank}: {said}")
    tail = "\n".join(lines) or f"It printed nothing; see {run_dir}/logs."
    return RunFailed(f"relaunch ended with exit code {code} on worker {rank}:\n{tail}")
