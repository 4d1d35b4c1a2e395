"""The background writer of a rank, or one sentence about why there is none."""

import errno
import resource

from checkpointing import BackgroundWriter
from strategies import ConfigError

_TOO_MANY = frozenset({errno.EMFILE, errno.ENFILE})


def open_writer() -> BackgroundWriter:
    """Return this rank's writer; its process starts with the first save.

    Raises:
        ConfigError: This process may not open its pipe and its memory: too many files are open.
    """
    try:
        return BackgroundWriter()
    except OSError as error:
        if error.errno not in _TOO_MANY:
            raise
        raise ConfigError(
            _too_many_text(error, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        ) from (error)


def _too_many_text(error: OSError, limit: int) -> str:
    return (
        f"checkpoints cannot be written beside the training: {error.strerror} (this process may "
        f"have {limit} files open). Close files that the script no longer needs, or before the "
        f"command write: ulimit -n {max(1024, 4 * limit)}"
    )
