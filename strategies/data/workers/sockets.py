"""Loader workers hand their batches over through sockets in the folder for temporary files."""

from __future__ import annotations

import tempfile
from multiprocessing.connection import Listener

from ...errors import ConfigError


def require_sockets(workers: int) -> None:
    """Refuse a folder in which loader workers could not hand over a batch.

    The path of a socket holds 107 bytes. Where it is longer, Python raises in a thread of the
    worker's, and torch's loader waits for the batch without end.

    Args:
        workers: loader processes of a rank; without any there is nothing to require.

    Raises:
        ConfigError: no socket can be made there.
    """
    if workers == 0:
        return
    try:
        Listener(family="AF_UNIX").close()
    except OSError as error:
        folder = tempfile.gettempdir()
        raise ConfigError(
            f"workers={workers} hand over their batches through sockets in {folder}, and none can "
            f"be made there: {error}. The folder's path has {len(folder)} characters, and about 70 "
            "fit. Set TMPDIR to a folder with a shorter path, such as /tmp, or pass workers=0."
        ) from None
