"""From what was asked and what the machine has to one resolved plan, or one sentence why not."""

import os
from dataclasses import dataclass
from pathlib import Path

from .command_line import nearest
from .errors import UsageError
from .gpus import Machine
from .options import LaunchOptions
from .shadowing import origin_of_packages, use_of_packages

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """All that is needed to start the ranks of this node."""

    script: str
    """As it was given, so that sys.argv[0] is what `python script.py` makes it."""
    script_args: tuple[str, ...]
    uses_run: bool
    """The script imports `launcher`, so each rank will soon handle SIGTERM."""
    local_world_size: int
    strategy: str | None
    precision: str | None
    run_dir: Path | None
    log_dir: Path | None
    """Where `attempt-K/rank-N.log` are written; None: all ranks write to the console."""
    master_addr: str
    master_port: int
    """0: a free one."""
    max_restarts: int
    grace_s: float | None
    cold: bool
    """Every rank is a Python of its own; else a fork of the warm server."""
    preload: tuple[str, ...]


def make_plan(options: LaunchOptions, machine: Machine) -> LaunchPlan:
    """Resolve the options; creates the run folder and the log folder.

    Raises:
        UsageError: What was asked cannot be done on this machine.
    """
    script = check_script(Path(options.script))
    use = use_of_packages(_source(script))
    origin = origin_of_packages(use, script.parent, own_root=Path(__file__).parent.parent)
    if (shadow := origin.shadow) is not None:
        name = shadow.parent.name if shadow.name == "__init__.py" else shadow.stem
        raise UsageError(
            f'{script.name} would import {shadow} instead of relaunch\'s own package "{name}". '
            f"Rename or move it."
        )
    uses_run = "launcher" in origin.ours
    local_world_size = resolve_nproc(options, machine, uses_run=uses_run)
    if options.precision == "fp16" and machine.num_gpus == 0:
        shown = "" if machine.cuda_visible_devices is None else f": {machine.describe_gpus()}"
        raise UsageError(
            f"fp16 needs a GPU; this machine shows none{shown}. Use --precision bf16 or fp32."
        )
    run_dir = _prepare_folder("--run-dir", options.run_dir)
    log_dir = _prepare_folder("--log-dir", options.log_dir)
    if log_dir is None and run_dir is not None:
        log_dir = run_dir / "logs"
    return LaunchPlan(
        script=options.script,
        script_args=options.script_args,
        uses_run=uses_run,
        local_world_size=local_world_size,
        strategy=options.strategy,
        precision=options.precision,
        run_dir=run_dir,
        log_dir=log_dir,
        master_addr=options.master_addr or LOOPBACK,
        master_port=options.master_port or 0,
        max_restarts=options.max_restarts,
        grace_s=options.grace_s,
        cold=options.cold,
        preload=options.preload,
    )


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
        None: 1 if options.strategy == "single" else machine.num_gpus or 1,
        "gpu": machine.num_gpus,
        "cpu": machine.num_cpus,
        "auto": machine.num_gpus or machine.num_cpus,
    }
    nproc = asked if isinstance(asked, int) else words[asked]
    # A script of another kind may well run several ranks per GPU or on the CPU: it decides.
    is_ours = uses_run or options.strategy is not None or options.precision is not None
    if is_ours and 0 < machine.num_gpus < nproc:
        raise UsageError(
            f"--nproc-per-node {asked} is {nproc} ranks, but this machine shows "
            f"{machine.describe_gpus()}. Pass --nproc-per-node {machine.num_gpus}, or hide the "
            "GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU."
        )
    if options.strategy == "single" and nproc > 1:
        raise UsageError(
            f"--strategy single is one rank, but --nproc-per-node {asked} is {nproc}. "
            "Pass --nproc-per-node 1 or another strategy."
        )
    return nproc


def check_script(script: Path) -> Path:
    """Return the script if it is a file.

    Raises:
        UsageError: It does not exist (close names in its folder are shown) or is a folder.
    """
    if script.is_file():
        return script
    if script.is_dir():
        raise UsageError(f"{script} is a folder, not a script.")
    try:
        names = {path.name for path in script.parent.iterdir()}
    except OSError:
        raise UsageError(f"{script} does not exist: there is no folder {script.parent}.") from None
    raise UsageError(f"{script} does not exist{nearest(script.name, names)}")


def _source(script: Path) -> str:
    try:
        return script.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{script} cannot be read: {error.strerror}.") from None


def _prepare_folder(option: str, folder: Path | None) -> Path | None:
    """Create the folder and prove that a file can be written there; permissions alone lie."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".relaunch-{os.getpid()}"
        probe.write_bytes(b"may this process write here?")
        probe.unlink()
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else folder
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(
            f"{option} {folder} cannot be written ({where}: {reason}). Pass another folder."
        ) from None
    return folder.resolve()
