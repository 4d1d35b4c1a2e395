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
            "gpu where there is one, else cpu (as torchrun). Left out: one per visible GPU, one "
            "rank where there is none",
        ),
        ("--nnodes", "N", "nodes, a number or MIN:MAX (default 1)"),
        ("--node-rank", "R", "this node's place among the nodes, from 0"),
        ("--master-addr", "HOST", "node 0, where the ranks meet (default 127.0.0.1)"),
        (
            "--master-port",
            "PORT",
            "the port on which they meet (default: a free one; 29500 on several nodes)",
        ),
        ("--local-addr", "HOST", "this node's own address, as the other nodes see it"),
        ("--rdzv-backend", "NAME", "static or c10d: the nodes meet at node 0 either way"),
        ("--rdzv-endpoint", "HOST:PORT", "as --master-addr and --master-port together"),
        ("--rdzv-id", "ID", "the run's name, the same on each node"),
        ("--rdzv-conf", "K=V,...", "join_timeout=S: how long to wait for the other nodes"),
        ("--standalone", None, "one node, a free port; --rdzv-* are not used"),
        ("--max-restarts", "N", "start failed ranks again at most N times (default 0)"),
        ("-m --module", None, "run a module, as python -m"),
        ("--no-python", None, "run a program that is not Python"),
        ("--run-path", None, "run a script by its path; the same as without"),
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
        ("--duplicate-stdout-filters", "TEXT,...", "stdout's lines with a TEXT in a file too"),
        ("--duplicate-stderr-filters", "TEXT,...", "stderr's lines with a TEXT in a file too"),
        ("--virtual-local-rank", None, "LOCAL_RANK=0 in every rank, which sees its GPU alone"),
        ("--shutdown-timeout", "S", "from SIGTERM to SIGKILL for ranks that have to end"),
        ("--signals-to-handle", "NAME,...", "more signals that ask the ranks to save and leave"),
        ("--monitor-interval", "S", "accepted: ends are noticed at once"),
        ("--event-log-handler", "NAME", "accepted: events are in RUN_DIR/events.jsonl"),
        ("--logs-specs", "NAME", "accepted: the logs are relaunch's own"),
    ),
    Option(
        name="--start-method",
        value="NAME",
        choices=("spawn", "fork", "forkserver"),
        help="accepted; as in torchrun it changes nothing for a script",
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
            "blocks that fsdp shards on their own: names such as layers.*, or classes (default: "
            "the repeated modules)",
        ),
        ("--hybrid-shard", None, "fsdp: shard inside a node, replicate over the nodes"),
        ("--run-dir", "DIR", "the run's folder: checkpoints, metrics, logs"),
        (
            "--checkpoints",
            "PLACE",
            "where checkpoints and the best weights go instead: a folder, or a URL that fsspec "
            "knows, such as s3://bucket/run; of this one run",
        ),
        ("--cold", None, "start each rank as a Python of its own, not as a fork"),
        ("--preload", "A,B", "modules to import once, before the ranks are forked"),
        ("--dry-run", None, "print the plan and rank 0's environment; start nothing"),
        (
            "--hang-timeout",
            "S",
            "kill and count as failed what has made no progress for S seconds, after writing its "
            "stacks; counted from the first sign of life, which Run gives before the ranks meet "
            "and other scripts by launcher.beat (default: never)",
        ),
        (
            "--secret-file",
            "FILE",
            "what the nodes share: a file with 16 characters or more, the same on each node "
            "(default: RELAUNCH_SECRET in the environment)",
        ),
        (
            "--container",
            "WORDS",
            'in a Slurm job: what the agents are started in, as "apptainer exec --nv image.sif"',
        ),
        ("--grace", "S", "kill the ranks S seconds after a warning (default: never)"),
    ),
    Option(name="--version", help="print the version and leave", from_environment=False),
    Option(name="--help", short="-h", help="print this and leave", from_environment=False),
)

OPTIONS = TORCHRUN_OPTIONS + OWN_OPTIONS
