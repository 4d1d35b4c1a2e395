"""The words after `relaunch` that are no script."""

SUBCOMMANDS = {
    "checkpoint": ".commands.checkpoint",
    "compare": ".commands.compare",
    "doctor": ".commands.doctor",
    "plan": ".commands.plan",
    "rehearse": ".commands.rehearse",
    "report": ".commands.report",
    "schedule": ".commands.schedule",
    "slurm": ".commands.slurm.command",
    "sweep": ".commands.sweep",
    "verify": ".commands.verify",
    "watch": ".commands.watch",
}
"""The first word, and the module whose `run` does the rest and returns the exit code."""
