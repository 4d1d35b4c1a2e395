"""Which of the words after `relaunch slurm` are sbatch's, and what they must not say; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ...plan import option_types as values
from ...plan.given_options import Given
from ...schedulers.slurm.scontrol import REACHING

_WITH_VALUE = frozenset(
    {
        *("account", "acctg-freq", "array", "batch", "bb", "bbf", "begin", "chdir"),
        *("cluster-constraint", "clusters", "comment", "constraint", "core-spec"),
        *("cores-per-socket", "cpu-freq", "cpus-per-gpu", "cpus-per-task", "deadline"),
        *("delay-boot", "dependency", "distribution", "error", "exclude", "export"),
        *("export-file", "extra", "extra-node-info", "gid", "gpu-bind", "gpu-freq", "gpus"),
        *("gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres", "gres-flags", "hint"),
        *("input", "job-name", "kill-on-invalid-dep", "licenses", "mail-type", "mail-user"),
        *("mcs-label", "mem", "mem-bind", "mem-per-cpu", "mem-per-gpu", "mincpus", "network"),
        *("nodefile", "nodelist", "nodes", "ntasks", "ntasks-per-core", "ntasks-per-gpu"),
        *("ntasks-per-node", "ntasks-per-socket", "open-mode", "output", "partition", "prefer"),
        *("priority", "profile", "qos", "reservation", "signal", "sockets-per-node"),
        *("switches", "thread-spec", "threads-per-core", "time", "time-min", "tmp"),
        *("tres-per-task", "uid", "wait-all-nodes", "wckey"),
    }
)
_FLAGS = frozenset(
    {
        *("contiguous", "exclusive", "get-user-env", "hold", "ignore-pbs", "nice", "no-kill"),
        *("no-requeue", "overcommit", "oversubscribe", "propagate", "reboot", "requeue"),
        *("resv-ports", "spread-job", "use-min-nodes"),
    }
)
"""Some of them take a value behind `=`."""
_SHORT = {
    "A": "account",
    "a": "array",
    "b": "begin",
    "C": "constraint",
    "c": "cpus-per-task",
    "d": "dependency",
    "D": "chdir",
    "e": "error",
    "F": "nodefile",
    "G": "gpus",
    "J": "job-name",
    "L": "licenses",
    "M": "clusters",
    "m": "distribution",
    "N": "nodes",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "S": "core-spec",
    "t": "time",
    "w": "nodelist",
    "x": "exclude",
    "H": "hold",
    "O": "overcommit",
    "s": "oversubscribe",
    "k": "no-kill",
}
_VARIABLES = {
    "array": "array-inx",
    "mem": "mem-per-node",
    "no-requeue": "requeue",
    "requeue": "no-requeue",
    "switches": "req-switch",
    "time": "timelimit",
}
"""Options whose variable has another name, or contradicts them."""
_REFUSED = {
    "wrap": "the script is made by relaunch; write the training script behind the options",
    "test-only": "--dry-run prints the script",
    "wait": "relaunch leaves once the job is submitted",
    "parsable": "relaunch says how to follow the job",
}


@dataclass(frozen=True, kw_only=True)
class SbatchOptions:
    """sbatch's options, spelled out, in the order in which they were given."""

    given: tuple[tuple[str, str | None], ...] = ()
    """Name without dashes, and value."""

    def get(self, name: str) -> str | None:
        """Return the value of the last one of that name; None where it is not given."""
        found = [value for key, value in self.given if key == name]
        return found[-1] if found else None

    def has(self, *names: str) -> bool:
        """Return whether one of them is given."""
        return any(key in names for key, _ in self.given)


def split_words(words: Sequence[str]) -> tuple[SbatchOptions, tuple[str, ...]]:
    """Return sbatch's options, and the words of `relaunch` itself.

    Both kinds may be mixed before the script. A short option is sbatch's.

    Raises:
        UsageError: An option lacks its value, or means nothing here.
    """
    given: list[tuple[str, str | None]] = []
    own: list[str] = []
    left = list(words)
    while left and left[0].startswith("-") and left[0] not in ("-", "--"):
        word = left.pop(0)
        name, value = _read(word)
        if name is None:
            own.append(word)
            own += _own_value(word, left)
            continue
        if name in _REFUSED:
            raise UsageError(f"--{name} has no place here: {_REFUSED[name]}.")
        if value is None and name in _WITH_VALUE:
            if not left:
                raise UsageError(f"{word} needs a value. See sbatch --help.")
            value = left.pop(0)
        given.append((name, value))
    return SbatchOptions(given=tuple(given)), (*own, *left)


def check_options(options: SbatchOptions, nnodes: Given | None) -> None:
    """See whether the job would have one task on each node, with all its GPUs.

    Raises:
        UsageError: It would not, or the numbers of nodes contradict each other.
    """
    nodes = options.get("nodes")
    num_nodes = int(nodes) if nodes is not None and nodes.isdecimal() else None
    if nnodes is not None:
        low, high = values.nnodes(nnodes)
        if num_nodes is not None and not low <= num_nodes <= high:
            raise UsageError(
                f"{nnodes.spelled}, but --nodes={nodes}. Leave --nnodes out: it comes from Slurm."
            )
        if num_nodes is None and high > 1:
            raise UsageError(f"{nnodes.spelled} is sbatch's to give: write --nodes={high}.")
    per_node, tasks = options.get("ntasks-per-node"), options.get("ntasks")
    if per_node not in (None, "1") or (tasks is not None and tasks != str(num_nodes or 1)):
        what = (
            f"--ntasks-per-node={per_node}" if per_node not in (None, "1") else f"--ntasks={tasks}"
        )
        raise UsageError(
            f"{what}: relaunch starts the ranks of a node itself. "
            f"Write: --nodes={nodes or 1} --gpus-per-node=N, without --ntasks."
        )
    for name in ("gpu-bind", "ntasks-per-gpu"):  # --gpus-per-task of the one task is all
        if options.has(name):
            raise UsageError(
                f"--{name}={options.get(name)} binds GPUs to tasks, but the one task of a node "
                "needs all of them. Write: --gpus-per-node=N."
            )


def submission_environment(environ: Mapping[str, str], options: SbatchOptions) -> dict[str, str]:
    """Return sbatch's environment; pure.

    Its variables count more than the lines of a script, and what was given to this command counts
    more than they do. Those of a job that surrounds this process are not what it asks for.

    Raises:
        UsageError: A variable would make of the script what it is not written for.
    """
    own = {k for k in environ if k.startswith(("SLURM_", "SBATCH_"))} - REACHING
    if "SLURM_JOB_ID" not in environ:
        if "SBATCH_ARRAY_INX" in environ and not options.has("array"):
            raise UsageError(
                f"SBATCH_ARRAY_INX={environ['SBATCH_ARRAY_INX']} in the environment would run the "
                "elements of an array in one run folder. Unset it, and pass --array."
            )
        given = {_VARIABLES.get(name, name) for name, _ in options.given}
        names = {f"SBATCH_{name.upper().replace('-', '_')}" for name in given}
        own &= {*names, "SBATCH_WAIT"}
    return {name: value for name, value in environ.items() if name not in own}


def _read(word: str) -> tuple[str | None, str | None]:
    """Return an sbatch option's name and the value in the same word; None: not sbatch's."""
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        known = name in _WITH_VALUE or name in _FLAGS or name in _REFUSED
        return (name if known else None), (value if equals else None)
    name = _SHORT.get(word[1:2], "")
    if not name:
        raise UsageError(f"unknown option {word}. A short option is sbatch's; relaunch's are long.")
    if len(word) == 2:
        return name, None
    if name in _FLAGS:
        raise UsageError(f"{word}: write short options one by one.")
    return name, word[2:]


def _own_value(word: str, left: list[str]) -> list[str]:
    """Take the value of an option of relaunch's own off the words, if it is the next one."""
    from ...command_line.argv import resolve

    takes_one = resolve(word.partition("=")[0]).value is not None
    return [left.pop(0)] if takes_one and "=" not in word and left else []
