"""The words after `relaunch` that are no script."""

import difflib
from pathlib import Path

from ..errors import UsageError

SUBCOMMANDS = {
    "checkpoint": ".commands.checkpoint",
    "report": ".commands.report",
    "schedule": ".commands.schedule",
    "slurm": ".commands.slurm.command",
    "sweep": ".commands.sweep",
    "watch": ".commands.watch",
}
"""The first word, and the module whose `run` does the rest and returns the exit code."""


def refuse_misspelled_subcommand(script: Path) -> None:
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
