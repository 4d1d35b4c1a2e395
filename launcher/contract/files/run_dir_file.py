"""The run folder, as reported by the run itself.

A script may name its folder to `Run.start`. The launcher, which has to know whether there is a
checkpoint to resume from, is written by each rank into a small file.
"""

import contextlib
from pathlib import Path


def working_folder() -> Path | None:
    """Return where this process is; None: that folder is gone."""
    try:
        return Path.cwd()
    except OSError:
        return None


def tell_folder(file: Path | None, folder: Path) -> None:
    """Report the run folder; without a file, as under plain `python train.py`, to nobody."""
    if file is not None:
        with contextlib.suppress(OSError):  # a full disk must not end a run that could continue
            file.write_text(str(folder.resolve()), encoding="utf-8", errors="surrogateescape")


def told_folder(file: Path) -> Path | None:
    """Return what a rank has said; None: nothing yet. Called in the launcher."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    return Path(text) if text else None
