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
    """One option of the command line; `PET_<NAME>` in the environment has the same meaning."""

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
            "gpu if there is one, else cpu (as in torchrun); default: one per visible GPU, else "
            "one rank",
        ),
        ("--nnodes", "N", "nodes, a number or MIN:MAX (default 1)"),
        ("--node-rank", "R", "rank of this node, from 0"),
        ("--master-addr", "HOST", "node 0, where the ranks meet (default 127.0.0.1)"),
        (
            "--master-port",
            "PORT",
            "port on which they meet (default: a free one; with several nodes 29500)",
        ),
        ("--local-addr", "HOST", "address of this node for the other nodes"),
        ("--rdzv-backend", "NAME", "static or c10d; the nodes meet at node 0 in both cases"),
        ("--rdzv-endpoint", "HOST:PORT", "the same as --master-addr and --master-port"),
        ("--rdzv-id", "ID", "name of the run, the same on each node"),
        (
            "--rdzv-conf",
            "K=V,...",
            "join_timeout=S: seconds to wait for the other nodes; last_call_timeout=S: with "
            "MIN:MAX nodes, seconds to wait for more than MIN (default 30)",
        ),
        (
            "--rejoin-every",
            "S",
            "with MIN:MAX nodes, look for late nodes every S seconds (default 30; 0: never)",
        ),
        ("--standalone", None, "one node on a free port; --rdzv-* are ignored"),
        ("--max-restarts", "N", "restart failed ranks at most N times (default 0)"),
        ("-m --module", None, "run a module, as python -m"),
        ("--no-python", None, "run a program that is not Python"),
        ("--run-path", None, "accepted, no effect: a script is always run by its path"),
        ("--role", "NAME", "the ranks' ROLE_NAME (default: default)"),
        ("--log-dir", "DIR", "logs of all ranks (default: RUN_DIR/logs)"),
        (
            "-r --redirects",
            "STD",
            "write only to the logs, not to the console: 1 stdout, 2 stderr, 3 both, 0 neither; "
            "for some local ranks: 0:3,1:2",
        ),
        ("-t --tee", "STD", "show on the console and write to the logs, as with -r"),
        (
            "--log-line-prefix-template",
            "TEXT",
            "prefix of each line on the console; ${role_name}, ${local_rank}, ${rank} and "
            "${hostname} are replaced",
        ),
        ("--local-ranks-filter", "R,...", "show only these local ranks on the console"),
        (
            "--duplicate-stdout-filters",
            "TEXT,...",
            "also write lines of stdout that contain a TEXT to a file",
        ),
        (
            "--duplicate-stderr-filters",
            "TEXT,...",
            "also write lines of stderr that contain a TEXT to a file",
        ),
        ("--virtual-local-rank", None, "each rank sees only its own GPU, with LOCAL_RANK=0"),
        ("--shutdown-timeout", "S", "seconds from SIGTERM to SIGKILL when ranks are ended"),
        ("--signals-to-handle", "NAME,...", "additional signals that count as a preemption notice"),
        ("--monitor-interval", "S", "accepted, no effect: the end of a rank is detected at once"),
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
        help="bind each rank to CPUs near its GPU: node: those of the NUMA node; socket: of the "
        "socket; exclusive: its own share of the node's cores; core-complex: the cores of one "
        "cache; without GPUs, ranks are spread over the nodes",
    ),
    Option(
        name="--print-completion",
        value="SHELL",
        choices=SHELLS,
        help="print a completion script for a shell and exit",
        from_environment=False,
    ),
)

OWN_OPTIONS = (
    Option(
        name="--strategy",
        value="NAME",
        help="how the model is distributed: " + ", ".join(STRATEGY_CHOICES) + " (default: auto)",
    ),
    Option(
        name="--precision",
        value="NAME",
        help="of the computation: " + ", ".join(PRECISION_NAMES) + " (default: fp32)",
    ),
    *_options(
        (
            "--shard-blocks",
            "A,B",
            "blocks that fsdp shards separately: names such as layers.*, or classes (default: "
            "the repeated modules)",
        ),
        ("--hybrid-shard", None, "fsdp: shard within a node, replicate across nodes"),
        ("--exact", None, "bit-for-bit equal results on any number of ranks (not in fp16)"),
        ("--run-dir", "DIR", "run folder: checkpoints, metrics, logs (default: runs/SCRIPT)"),
        (
            "--checkpoints",
            "PLACE",
            "store checkpoints and best weights elsewhere: a folder, or a URL of fsspec such as "
            "s3://bucket/run; for one run only",
        ),
        ("--cold", None, "start a new Python for each rank instead of a fork"),
        (
            "--preload",
            "A,B",
            "modules to import once in the fork server, before the ranks are forked",
        ),
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
            "file with the secret of the nodes: 16 characters or more, the same on each node "
            "(default: RELAUNCH_SECRET in the environment)",
        ),
        (
            "--container",
            "WORDS",
            'in a Slurm job: command to run agents in, such as "apptainer exec --nv image.sif"',
        ),
        ("--grace", "S", "kill the ranks S seconds after a preemption notice (default: never)"),
    ),
    Option(name="--version", help="print the version and exit", from_environment=False),
    Option(name="--help", short="-h", help="print this and exit", from_environment=False),
)

OPTIONS = TORCHRUN_OPTIONS + OWN_OPTIONS
