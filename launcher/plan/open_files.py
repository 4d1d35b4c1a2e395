"""How many files this process may have open: with too few, torch's store waits for ten minutes."""

import resource

from ..errors import UsageError

MIN_OPEN_FILES = 64
"""What a launcher of a few ranks has open at once is below that."""


def require_open_files(limit: int | None = None) -> None:
    """Refuse a limit with which nothing can be started.

    Args:
        limit: of open files; None: this process's.

    Raises:
        UsageError: it is too low.
    """
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    if soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES:
        raise UsageError(
            f"this process may have {soft} files open, and the launcher needs {MIN_OPEN_FILES} or "
            f"more. Before it, write: ulimit -n {MIN_OPEN_FILES * 16}"
        )
