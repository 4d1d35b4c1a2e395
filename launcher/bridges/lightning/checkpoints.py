"""Lightning's checkpoints: which one a run resumes from, and how one becomes visible."""

from __future__ import annotations

import re
import shutil
import time
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ...run_folder.plain_files import sync

_STEP = re.compile(r"step=(\d+)")


def newest_whole(folders: Iterable[Path]) -> tuple[int, Path] | None:
    """Return the step and the path of the newest checkpoint that is whole; None: there is none.

    Those without a step in their names ("last.ckpt") are not looked at. Of one step the first
    folder's counts.
    """
    found = [
        (int(match[1]), -number, path)
        for number, folder in enumerate(folders)
        for path in folder.glob("*.ckpt")
        if (match := _STEP.search(path.name)) and not path.name.startswith(".")
    ]
    for step, _, path in sorted(found, reverse=True):
        if path.is_dir() or zipfile.is_zipfile(path):
            return step, path
    return None


def publish(aside: Path, final: Path) -> tuple[int, float]:
    """Sync a checkpoint, give it its name and remove older ones; return its bytes and the seconds.

    Called on the coordinator only, once every rank has written its part.

    Raises:
        OSError: it is cut off, or from the disk.
    """
    began_s = time.monotonic()
    files = [path for path in aside.rglob("*") if path.is_file()] if aside.is_dir() else [aside]
    if not aside.is_dir() and not zipfile.is_zipfile(aside):
        raise OSError(f"{aside} is cut off")
    for path in files:
        sync(path)
    size_bytes = sum(path.stat().st_size for path in files)
    if final.is_dir():
        shutil.rmtree(final)
    aside.rename(final)
    sync(final.parent)
    for older in final.parent.glob("*step=*.ckpt"):
        if older != final:
            shutil.rmtree(older, ignore_errors=True)
            with suppress(OSError):
                older.unlink(missing_ok=True)
    return size_bytes, time.monotonic() - began_s
