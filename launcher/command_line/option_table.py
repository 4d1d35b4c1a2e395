"""Every option of the command: torchrun's, then our own. The help is printed from this table."""

from collections.abc import Iterator
from dataclasses import dataclass

from strategies.names import PRECISION_NAMES
from strategies.parallel.registry import STRATEGY_CHOICES

from ..plan.cpu_binding import MODES

SHELLS = ("bash", "zsh", "tcsh")
"""For which there is a completion script."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of the command line; `PET_<NAME>` in the environment says the same."""

    name: str
    help: str
    short: str | None = None
    value: str | None = None
    """The value's name in the help; None: a flag."""
    choices: tuple[str, ...] = ()
    from_environment: bool = True

    @property
    def variable(self) -> str:
        """Return the variable of the environment that stands for this option."""
        return "PET_" + self.name.removeprefix("--").replace("-", "_").upper()


def _options(*rows: tuple[str, str | None, str]) -> Iterator[Option]:
    for names, value, text in rows:
        short, _, name = names.rpartition(" ")
        yield Option(name=name, short=short or None, value=value, help=text)


TORCHRUN_OPTIONS = (
    *_options(
        (
            "--nproc-per-node",
            "N",
            "ranks on this machine: a number; gpu: one per visible GPU; cpu: one per CPU; auto: "
            "gpu if there is one, else cpu (as torchrun); default: one per visible GPU, else one "
            "rank",
        ),
        ("--nnodes", "N", "nodes, a number or MIN:MAX (default 1)"),
        ("--node-rank", "R", "rank of this node, from 0"),
        ("--master-addr", "HOST", "node 0, where the ranks meet (default 127.0.0.1)"),
        (
            "--master-port",
            "PORT",
            "the port on which they meet (default: a free one; 29500 on several nodes)",
        ),
        ("--local-addr", "HOST", "this node's own address, as the other nodes see it"),
        ("--rdzv-backend", "NAME", "static or c10d; the nodes meet at node 0 in both cases"),
        ("--rdzv-endpoint", "HOST:PORT", "as --master-addr and --master-port together"),
        ("--rdzv-id", "ID", "name of the run, the same on each node"),
        (
            "--rdzv-conf",
            "K=V,...",
            "join_timeout=S: how long to wait for the other nodes; last_call_timeout=S: with "
            "MIN:MAX nodes, how long for more than MIN (default 30)",
        ),
        (
            "--rejoin-every",
            "S",
            "with MIN:MAX nodes, look for nodes that come late every S seconds (default 30; 0: "
            "never)",
        ),
        ("--standalone", None, "one node, a free port; --rdzv-* are not used"),
        ("--max-restarts", "N", "restart failed ranks at most N times (default 0)"),
        ("-m --module", None, "run a module, as python -m"),
        ("--no-python", None, "run a program that is not Python"),
        ("--run-path", None, "run a script by its path; no effect"),
        ("--role", "NAME", "the ranks' ROLE_NAME (default: default)"),
        ("--log-dir", "DIR", "logs of all ranks (default: RUN_DIR/logs)"),
        (
            "-r --redirects",
            "STD",
            "keep from the console and write to the logs: 1 stdout, 2 stderr, 3 both, 0 neither; "
            "for some local ranks: 0:3,1:2",
        ),
        ("-t --tee", "STD", "show on the console and write to the logs, as with -r"),
        (
            "--log-line-prefix-template",
            "TEXT",
            "before each line on the console; ${role_name}, ${local_rank}, ${rank} and ${hostname} "
            "are filled in",
        ),
        ("--local-ranks-filter", "R,...", "show only these local ranks on the console"),
        (
            "--duplicate-stdout-filters",
            "TEXT,...",
            "also write lines of stdout with a TEXT to a file",
        ),
        (
            "--duplicate-stderr-filters",
            "TEXT,...",
            "also write lines of stderr with a TEXT to a file",
        ),
        ("--virtual-local-rank", None, "LOCAL_RANK=0 in every rank; each sees only its own GPU"),
        ("--shutdown-timeout", "S", "seconds from SIGTERM to SIGKILL when ranks are ended"),
        ("--signals-to-handle", "NAME,...", "more signals that are a preemption notice"),
        ("--monitor-interval", "S", "accepted, no effect: ends are noticed at once"),
        ("--event-log-handler", "NAME", "accepted, no effect: events are in RUN_DIR/events.jsonl"),
        ("--logs-specs", "NAME", "accepted, no effect"),
    ),
    Option(
        name="--start-method",
        value="NAME",
        choices=("spawn", "fork", "forkserver"),
        help="accepted, no effect, as in torchrun for a script",
    ),
    Option(
        name="--numa-binding",
        value="MODE",
        choices=MODES,
        help="bind each rank to CPUs near its GPU: those of the NUMA node, of the socket, a share "
        "of the node's cores of its own, or the cores of one cache; ranks on CPUs are spread over "
        "the nodes",
    ),
    Option(
        name="--print-completion",
        value="SHELL",
        choices=SHELLS,
        help="print a completion script for a shell and leave",
        from_environment=False,
    ),
)

OWN_OPTIONS = (
    Option(name="--strategy", value="NAME", help=", ".join(STRATEGY_CHOICES)),
    Option(name="--precision", value="NAME", help=", ".join(PRECISION_NAMES)),
    *_options(
        (
            "--shard-blocks",
            "A,B",
            "blocks that fsdp shards separately: names such as layers.*, or classes (default: "
            "the repeated modules)",
        ),
        ("--hybrid-shard", None, "fsdp: shard within a node, replicate across nodes"),
        ("--exact", None, "the same bits on any number of ranks (not in fp16)"),
        ("--run-dir", "DIR", "run folder: checkpoints, metrics, logs (default: runs/SCRIPT)"),
        (
            "--checkpoints",
            "PLACE",
            "where to store checkpoints and best weights instead: a folder, or a URL of fsspec "
            "such as s3://bucket/run; for one run only",
        ),
        ("--cold", None, "start a new Python for each rank instead of a fork"),
        ("--preload", "A,B", "modules to import once, before the ranks are forked"),
        ("--dry-run", None, "print the plan and rank 0's environment; start nothing"),
        (
            "--hang-timeout",
            "S",
            "if no rank makes progress for S seconds, write all stacks, kill the ranks and count "
            "it as a failure; counted from the first heartbeat, which Run sends before the ranks "
            "meet, and other scripts by launcher.beat (default: never)",
        ),
        (
            "--secret-file",
            "FILE",
            "secret of the nodes: a file with 16 characters or more, the same on each node "
            "(default: RELAUNCH_SECRET in the environment)",
        ),
        (
            "--container",
            "WORDS",
            'in a Slurm job: command to start the agents in, as "apptainer exec --nv image.sif"',
        ),
        ("--grace", "S", "kill the ranks S seconds after a preemption notice (default: never)"),
    ),
    Option(name="--version", help="print the version and exit", from_environment=False),
    Option(name="--help", short="-h", help="print this and exit", from_environment=False),
)

OPTIONS = TORCHRUN_OPTIONS + OWN_OPTIONS
