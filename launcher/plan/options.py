"""What was asked on the command line, checked by itself; nothing here looks at the machine."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from strategies.names import PRECISION_NAMES
from strategies.parallel.registry import STRATEGY_CHOICES

from ..contract.run_options import RunOptions
from ..errors import UsageError
from .program import ProgramKind

BACKENDS = ("static", "c10d")
DEFAULT_ROLE = "default"


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """Which nodes take part and where they meet; raises UsageError on contradictions."""

    num_min: int = 1
    num_max: int = 1
    node_rank: int | None = None
    """None: not given; on several nodes they are numbered as they arrive."""
    backend: str = "static"
    master_addr: str | None = None
    master_port: int | None = None
    local_addr: str | None = None
    run_id: str | None = None
    secret_file: Path | None = None
    """Where the secret that the nodes share is written."""
    join_timeout_s: float = 600.0
    """How long a node waits for the others at the start."""
    last_call_s: float = 30.0
    """With MIN:MAX nodes: how long the others are waited for once MIN are there; torchrun's."""
    rejoin_every_s: float = 30.0
    """How often to look for nodes that came late, with MIN:MAX nodes; 0: never."""

    def __post_init__(self) -> None:
        if self.node_rank is not None and self.node_rank >= self.num_max:
            count = "1 node" if self.num_max == 1 else f"{self.num_max} nodes"
            raise UsageError(
                f"--node-rank {self.node_rank}, but --nnodes is {count}: 0 to {self.num_max - 1}."
            )
        if self.num_max == 1:
            return
        if self.backend not in BACKENDS:
            raise UsageError(
                f"--rdzv-backend {self.backend} is not supported; several nodes meet at node 0 "
                f"without any other server. Pass --rdzv-backend c10d or static."
            )
        if self.master_addr is None:
            raise UsageError(
                f"--nnodes {self.num_max} needs the address of node 0. Pass --master-addr HOST "
                "--master-port PORT, the same on each node."
            )
        if self.node_rank is None and self.backend == "static":
            raise UsageError(
                f"--nnodes {self.num_max} needs --node-rank R: 0 on node 0, 1 on the next. (With "
                "--rdzv-backend c10d nodes are numbered as they arrive.)"
            )

    @property
    def several(self) -> bool:
        """Return whether more than this node may take part."""
        return self.num_max > 1


Std = int | Mapping[int, int]
"""Bits of the streams, 1 stdout and 2 stderr: one number for all local ranks, or one for each."""


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """Where the ranks' output is to go."""

    redirects: Std | None = None
    tee: Std | None = None
    shown: frozenset[int] | None = None
    """The local ranks that the console shows; None: no wish."""
    prefix_template: str | None = None
    """What begins each line on the console; None: as in the environment."""
    stdout_filters: tuple[str, ...] = ()
    stderr_filters: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """The options of `relaunch`; raises UsageError where one cannot mean anything."""

    script: str
    script_args: tuple[str, ...] = ()
    kind: ProgramKind = ProgramKind.SCRIPT
    nproc_per_node: str | int | None = None
    """A number, or one of NPROC_WORDS; None: one rank per visible GPU, one where there is none."""
    run: RunOptions = field(default_factory=RunOptions)
    log_dir: Path | None = None
    nodes: NodeOptions = field(default_factory=NodeOptions)
    streams: StreamOptions = field(default_factory=StreamOptions)
    role: str = DEFAULT_ROLE
    virtual_local_rank: bool = False
    numa_binding: str | None = None
    """To which CPUs ranks are bound: one of `cpu_binding.MODES`; None: to none."""
    max_restarts: int = 0
    grace_s: float | None = None
    """Seconds from a preemption notice to SIGKILL; None: the ranks take the time they need."""
    terminate_s: float | None = None
    """Seconds from SIGTERM to SIGKILL once an attempt is lost; None: the launcher's own bound."""
    hang_timeout_s: float | None = None
    """Seconds without a heartbeat from any rank until they are killed; None: never."""
    warning_signals: tuple[signal.Signals, ...] = ()
    """Signals to take as a preemption notice, in addition to the default ones."""
    dry_run: bool = False
    """Print the plan and start nothing."""
    notes: tuple[str, ...] = ()
    """Options without effect here; reported once."""
    cold: bool = False
    """Start every rank as a Python of its own."""
    preload: tuple[str, ...] = ()
    """Modules that the fork server imports before it forks the ranks."""

    def __post_init__(self) -> None:
        _check_choice("strategy", self.run.strategy, STRATEGY_CHOICES)
        _check_choice("precision", self.run.precision, PRECISION_NAMES)
        if self.run.strategy == "single" and self.nodes.several:
            raise UsageError(
                f"--strategy single is one rank, but --nnodes {self.nodes.num_max} is several. "
                "Pass another strategy."
            )
        if self.cold and self.preload:
            raise UsageError(
                f"--cold and --preload {','.join(self.preload)} exclude each other: a cold rank "
                "imports everything by itself. Leave one of them out."
            )


def _check_choice(kind: str, given: str | None, valid: Sequence[str]) -> None:
    if given is not None and given not in valid:
        choices = ", ".join(sorted(valid))
        raise UsageError(f'unknown {kind} "{given}"; choose from {choices}.')
