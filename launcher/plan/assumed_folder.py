"""The run folder that is assumed until the run itself has reported it."""

from pathlib import Path

from .launch_plan import LaunchPlan
from .program import Program, ProgramKind, find_source


def usual_folder(program: Program) -> Path | None:
    """Return where `Run` keeps a run for which no folder is named; None: not known.

    Raises:
        UsageError: There is no such program.
    """
    if program.kind is ProgramKind.SCRIPT:
        return Path("runs") / Path(program.name).stem
    source = find_source(program) if program.kind is ProgramKind.MODULE else None
    return None if source is None else Path("runs") / source.stem


def assumed_folder(plan: LaunchPlan) -> Path | None:
    """Return the run folder that is assumed until the run reports it; None: not known."""
    if plan.run.run_dir is not None:
        return plan.run.run_dir
    return usual_folder(plan.program) if plan.uses_run else None
