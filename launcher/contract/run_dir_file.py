"""Where a run is kept: what was asked, what the run itself says, and else what `Run` would choose.

A script may name its folder to `Run.start`. The launcher, which has to know whether there is a
checkpoint to go on from, is told by each rank in a small file.
"""

import contextlib
from pathlib import Path

from ..plan.launch_plan import LaunchPlan
from ..plan.program import Program, ProgramKind, find_source


def usual_folder(program: Program) -> Path | None:
    """Return where `Run` keeps a run for which no folder is named; None: not known.

    Raises:
        UsageError: There is no such program.
    """
    if program.kind is ProgramKind.SCRIPT:
        return Path("runs") / Path(program.name).stem
    source = find_source(program) if program.kind is ProgramKind.MODULE else None
    return None if source is None else Path("runs") / source.stem


def working_folder() -> Path | None:
    """Return where this process is; None: that folder is gone."""
    try:
        return Path.cwd()
    except OSError:
        return None


def assumed_folder(plan: LaunchPlan) -> Path | None:
    """Return where the run is kept, as long as it has not said so itself; None: not known."""
    if plan.run_dir is not None:
        return plan.run_dir
    return usual_folder(plan.program) if plan.uses_run else None


def tell_folder(file: Path | None, folder: Path) -> None:
    """Say where the run is kept; without a file, as under plain `python train.py`, to nobody."""
    if file is not None:
        with contextlib.suppress(OSError):  # a full disk must not end a run that could go on
            file.write_text(str(folder.resolve()), encoding="utf-8", errors="surrogateescape")


def told_folder(file: Path) -> Path | None:
    """Return what a rank has said; None: nothing yet. Called in the launcher."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    return Path(text) if text else None
