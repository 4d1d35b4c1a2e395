"""From the words after `relaunch` to LaunchOptions, and the help."""

import argparse
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..contract import run_options
from ..contract.run_options import RunOptions
from ..errors import UsageError
from ..plan import option_types as values
from ..plan.given_options import Given, Words
from ..plan.option_types import optional
from ..plan.options import DEFAULT_ROLE, LaunchOptions, NodeOptions, StreamOptions
from ..plan.program import ProgramKind
from .argv import read_words
from .ignored_options import JOIN_TIMEOUT, LAST_CALL, notes
from .option_table import OWN_OPTIONS, TORCHRUN_OPTIONS
from .subcommands import SUBCOMMANDS

_EPILOG = """\
Options of torchrun have the same meaning here. Options may be abbreviated, written with
underscores, or given as PET_<NAME> in the environment; the command line takes precedence.

subcommands (relaunch SUBCOMMAND --help):
  verify, rehearse, doctor  check a script or a machine before a run
  plan, schedule            memory and strategy on other machines; learning rates
  watch, report, compare    follow, summarize and compare runs
  checkpoint                list, verify, compare, prune, import and export checkpoints
  sweep                     many runs: search, seeds, folds
  slurm                     write and submit a batch script

exit codes:
  0    done                             2      wrong usage
  75   saved; the same command resumes  93     do not retry
  else the code of the rank that failed first; 128+n when signal n ended it

signals to relaunch:
  SIGTERM, SIGUSR1, SIGUSR2, SIGHUP, Ctrl-C   a preemption notice: each rank gets SIGTERM once
  Ctrl-C again                                the ranks are killed at once
"""

DEFAULT_PORT = 29500
"""torchrun's, for several nodes: there a port must be known before it can be free."""
DEFAULT_C10D_PORT = 29400


def help_text() -> str:
    """Return what `--help` prints."""
    parser = argparse.ArgumentParser(
        prog="relaunch",
        usage="relaunch [options] script.py [script args]",
        description="Start a PyTorch training script on the GPUs of this machine, or of several.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    for title, options in (("as torchrun", TORCHRUN_OPTIONS), ("relaunch's own", OWN_OPTIONS)):
        group = parser.add_argument_group(title)
        for option in options:
            names = [name for name in (option.short, option.name) if name is not None]
            if option.value is None:
                group.add_argument(*names, action="store_true", help=option.help)
            else:
                group.add_argument(*names, metavar=option.value, help=option.help)
    return parser.format_help()


def parse_options(words: Words) -> LaunchOptions:
    """Turn what was given into options.

    Raises:
        UsageError: An option has a wrong value, two contradict each other, or there is no script.
    """
    if not words.rest:
        raise UsageError("no script is given: relaunch [options] script.py [script args].")
    kind = _kind(words)
    if kind is ProgramKind.SCRIPT:
        _refuse_misspelled_subcommand(Path(words.rest[0]))
    given = words.given.get
    terminate_s = optional(given("--shutdown-timeout"), values.seconds)
    grace_s = optional(given("--grace"), values.seconds)
    nodes = _nodes(words)
    return LaunchOptions(
        script=words.rest[0],
        script_args=words.rest[1:],
        kind=kind,
        nproc_per_node=optional(given("--nproc-per-node"), values.nproc),
        run=_run_options(words),
        log_dir=optional(given("--log-dir"), values.path),
        nodes=nodes,
        streams=_streams(words),
        role=words.text("--role") or DEFAULT_ROLE,
        virtual_local_rank=words.flag("--virtual-local-rank"),
        numa_binding=words.text("--numa-binding"),
        max_restarts=optional(given("--max-restarts"), values.whole) or 0,
        grace_s=terminate_s if grace_s is None else grace_s,
        terminate_s=terminate_s,
        hang_timeout_s=optional(given("--hang-timeout"), values.positive_seconds),
        warning_signals=optional(given("--signals-to-handle"), values.signals) or (),
        dry_run=words.flag("--dry-run"),
        cold=words.flag("--cold"),
        preload=optional(given("--preload"), values.names) or (),
        notes=notes(words, several_nodes=nodes.several),
    )


def parse_command_line(
    argv: Sequence[str],
    environ: Mapping[str, str],
    supply: Callable[[Words], Words] = lambda words: words,
) -> LaunchOptions | str:
    """Turn the words after `relaunch` and the environment into options.

    Args:
        argv: The words.
        environ: May give options as PET_<NAME>.
        supply: Adds the options that follow from the place of the start.

    Returns:
        The option instead, where only something printed is asked for: `--help`, `--version`
        or `--print-completion=SHELL`.

    Raises:
        UsageError: Something in them is wrong.
    """
    words = read_words(argv, environ)
    for name in ("--help", "--version", "--print-completion"):
        if name in words.given:
            return name if name != "--print-completion" else f"{name}={words.text(name)}"
    return parse_options(supply(words))


def _run_options(words: Words) -> RunOptions:
    """Return what ranks read; each option has the name of its field."""
    texts = {}
    for name in run_options.NAMES:
        option = f"--{name.replace('_', '-')}"
        is_given = words.flag(option) if name in run_options.FLAGS else option in words.given
        if is_given:
            given = words.given[option]
            texts[name] = values.place(given) if name in run_options.PLACES else given.text
    return RunOptions.of(texts)


def _kind(words: Words) -> ProgramKind:
    if words.flag("--module") and words.flag("--no-python"):
        raise UsageError("--module and --no-python contradict each other. Leave one out.")
    if words.flag("--module") and words.flag("--run-path"):
        raise UsageError("--module and --run-path contradict each other. Leave one out.")
    if words.flag("--module"):
        return ProgramKind.MODULE
    if words.flag("--no-python") and not words.flag("--run-path"):
        return ProgramKind.COMMAND
    return ProgramKind.SCRIPT


def _streams(words: Words) -> StreamOptions:
    given = words.given.get
    return StreamOptions(
        redirects=optional(given("--redirects"), values.streams),
        tee=optional(given("--tee"), values.streams),
        shown=optional(given("--local-ranks-filter"), values.local_ranks),
        prefix_template=words.text("--log-line-prefix-template"),
        stdout_filters=optional(given("--duplicate-stdout-filters"), values.filters) or (),
        stderr_filters=optional(given("--duplicate-stderr-filters"), values.filters) or (),
    )


def _nodes(words: Words) -> NodeOptions:
    given = words.given.get
    num_min, num_max = optional(given("--nnodes"), values.nnodes) or (1, 1)
    standalone = words.flag("--standalone")
    if standalone and num_max > 1:
        raise UsageError(
            f"--standalone is one node, but {words.given['--nnodes'].spelled} is several. "
            "Leave one out."
        )
    backend = words.text("--rdzv-backend") or "static"
    addr, port = words.text("--master-addr"), optional(given("--master-port"), values.port)
    endpoint = optional(given("--rdzv-endpoint"), values.endpoint)
    if endpoint is not None:
        addr, port = endpoint
    if num_max > 1:
        port = port or (DEFAULT_C10D_PORT if backend == "c10d" else DEFAULT_PORT)
    configuration = optional(given("--rdzv-conf"), values.configuration) or {}
    every_s = optional(given("--rejoin-every"), values.seconds)
    return NodeOptions(
        num_min=num_min,
        num_max=num_max,
        node_rank=optional(given("--node-rank"), values.whole),
        backend="static" if standalone else backend,
        master_addr=None if standalone or addr is None else addr.strip("[]"),
        master_port=None if standalone else port,
        local_addr=words.text("--local-addr"),
        run_id=None if standalone else words.text("--rdzv-id"),
        secret_file=optional(given("--secret-file"), values.path),
        join_timeout_s=_seconds_of(configuration, JOIN_TIMEOUT, NodeOptions.join_timeout_s),
        last_call_s=_seconds_of(configuration, LAST_CALL, NodeOptions.last_call_s),
        rejoin_every_s=NodeOptions.rejoin_every_s if every_s is None else every_s,
    )


def _seconds_of(configuration: Mapping[str, str], keys: Sequence[str], default_s: float) -> float:
    """Return the seconds under the first of the keys that --rdzv-conf has."""
    for key in keys:
        if key in configuration:
            text = configuration[key]
            return values.seconds(Given(text=text, spelled=f"--rdzv-conf {key}={text}"))
    return default_s


def _refuse_misspelled_subcommand(script: Path) -> None:
    """Refuse a script that does not exist and whose name is close to a subcommand's.

    Raises:
        UsageError: It is; close names in the folder are shown, too.
    """
    if script.suffix or len(script.parts) != 1 or script.exists():
        return
    near = [f"relaunch {name}" for name in difflib.get_close_matches(script.name, SUBCOMMANDS, n=1)]
    if not near:
        return
    names = {path.name for path in script.parent.iterdir()}
    near += difflib.get_close_matches(script.name, names, n=1)
    raise UsageError(
        f"{script} is neither a script nor a subcommand; did you mean {' or '.join(near)}?"
    )
