"""Write under another name first, so that a file or folder appears complete or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import SaveFailedError
from ..format.names import new_token
from .local_files import Files
from .small_files import remove


@contextmanager
def written_aside(path: Path, files: Files) -> Iterator[Path]:
    """Yield a free name beside a path; what is made there gets the path's name at the end.

    If the body raises, what it has made is removed. What killed writers of the same path have
    left is removed first. For one path once at a time.

    Raises:
        SaveFailedError: If the disk refuses.
    """
    try:
        files.make_dirs(path.parent)
        prefix = f".tmp-{path.name}-"
        for name in files.listdir(path.parent):
            if name.startswith(prefix) and len(name) == len(prefix) + len(new_token()):
                _remove(path.parent / name, files)
        aside = path.with_name(prefix + new_token())
        try:
            yield aside
            files.rename(aside, path)
        except BaseException:
            _remove(aside, files)
            raise
        files.fsync_dir(path.parent)
    except OSError as error:
        raise SaveFailedError(f"{path} was not exported: {error}") from error


def _remove(path: Path, files: Files) -> None:
    with suppress(FileNotFoundError):
        remove(path, files)
