"""The errors of this package.

CheckpointError
├── DamagedCheckpointError   (also ValueError)         what is on disk is not what was saved
│   ├── NamedFileError                              a file that it names, and that is not its own
│   └── UnreadFormatError                           it is of a format that is not read here
├── ModelMismatchError       (also ValueError)         the checkpoint is sound, but of another model
├── NoCheckpointError        (also FileNotFoundError)  the store has no such step
├── PlaceError               (also ValueError)         no checkpoints can be kept at such a URL
└── SaveFailedError          (also OSError)            nothing new was committed, or not durably
"""

from pathlib import PurePath


class CheckpointError(Exception):
    """Base of every error that this package raises on purpose."""


class DamagedCheckpointError(CheckpointError, ValueError):
    """A file of a checkpoint is missing, truncated, altered or not readable.

    Attributes:
        path: The damaged file or folder.
        problem: What is wrong with it.
    """

    def __init__(self, path: PurePath, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class NamedFileError(DamagedCheckpointError):
    """A file of others, which a checkpoint names in place of a copy, is missing or not as it was.

    The checkpoint itself is sound, and an older one needs the same file as a rule.
    """


class UnreadFormatError(DamagedCheckpointError):
    """A checkpoint is of a format that this relaunch does not read, and as it was written.

    It is not damaged: to fall back behind it would lose the steps that it holds.
    """


class ModelMismatchError(CheckpointError, ValueError):
    """The tensors of a checkpoint are not the tensors that were asked for."""


class NoCheckpointError(CheckpointError, FileNotFoundError):
    """The store has no checkpoint of this step."""


class PlaceError(CheckpointError, ValueError):
    """A URL is none, or what is needed to reach it is not installed."""


class SaveFailedError(CheckpointError, OSError):
    """A save, an export or a deletion did not finish."""
