"""What the `relaunch` command does: options, checks, launch, exit code.

Until the ranks are about to be started nothing here imports torch, so that `--help` and a mistake
cost a few hundredths of a second.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

from .command_line.parser import help_text, parse_command_line
from .command_line.subcommands import SUBCOMMANDS
from .contract.interrupted import Interrupted
from .contract.launcher_signals import SignalInbox
from .errors import LauncherError, RunOver, ToldElsewhere
from .plan.launch_plan import (
    bind_ranks,
    make_plan,
    out_of_reach_note,
    prepare_run_folder,
    require_engine,
    sharing_note,
)
from .plan.machine import Machine
from .plan.open_files import require_open_files
from .plan.secret import read_secret, unbound_text
from .schedulers.table import find_cluster
from .terminal.console import end_of_output, say


def leave_with(words: Sequence[str], inbox: SignalInbox) -> int:
    """Run the command; return the exit code, whatever happens."""
    try:
        if words and words[0] in SUBCOMMANDS:
            return int(import_module(SUBCOMMANDS[words[0]], __package__).run(words[1:]))
        return run(words, inbox)
    except LauncherError as error:
        if not isinstance(error, ToldElsewhere):
            say(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:
        if (code := end_of_output()) is None:
            raise
        return code


def run(argv: Sequence[str], inbox: SignalInbox) -> int:
    """Start what the words say, see it to its end and return the exit code.

    Raises:
        LauncherError: Something is wrong with what was asked, or with this machine.
    """
    environ = dict(os.environ)
    site = find_cluster(environ, argv, say)
    options = parse_command_line(argv, environ, site.supply)
    if isinstance(options, str):
        print(_printed(options))
        return 0
    inbox.install(options.warning_signals)
    for note in options.notes:
        say(note)
    require_open_files()
    machine = Machine.here(environ)
    plan = make_plan(options, machine)
    for note_of in (sharing_note, out_of_reach_note):
        if (text := note_of(plan.local_world_size, machine)) is not None:
            say(text)
    if plan.nodes.several:
        plan = replace(plan, secret=read_secret(plan.nodes.secret_file, environ))
    if not site.in_container:
        require_engine(plan)
    if not site.starts_agents:
        plan = bind_ranks(plan, options.numa_binding, machine)
    if options.dry_run:
        from .agent.dry_run import describe

        print("\n".join((*site.describe(), describe(plan, environ))))
        return 0
    prepare_run_folder(options.run.run_dir)
    if (code := site.run_agents(plan, inbox)) is not None:
        return code
    if plan.nodes.several and not plan.secret.value:
        say(unbound_text(plan.nodes.run_id, f"{plan.master_addr}:{plan.master_port}"))
    from .agent.launch import (
        launch,  # after every check: a mistake is reported without what a launch needs
    )

    plan = site.adjust(plan)
    try:
        code = launch(plan, inbox, environ, say, advice=site.advice())
    except (Interrupted, RunOver) as ended:
        say(str(ended))
        code = ended.exit_code
    return site.conclude(code, plan, inbox)


def _printed(asked: str) -> str:
    """Return what an option asks to be printed instead of a start."""
    name, _, value = asked.partition("=")
    if name == "--print-completion":
        from .command_line.completion import completion  # asked for once in a lifetime

        return completion(value)
    if name == "--help":
        return help_text()
    from .contract.own_command import own_version  # `--help` is kept to a few modules

    return f"relaunch {own_version('(not installed)')}"
