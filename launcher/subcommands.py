"""The words after `relaunch` that are no script."""

SUBCOMMANDS = {
    "checkpoint": ".checkpoint_command",
    "report": ".report_command",
    "schedule": ".schedule_command",
    "slurm": ".slurm.submit",
    "sweep": ".sweep_command",
    "watch": ".watch_command",
}
"""The first word, and the module whose `run` does the rest and returns the exit code."""
