"""`relaunch checkpoint ...`: look at checkpoints, check, compare, thin out and export them.

Nothing here imports torch until tensors are to be compared or converted.
"""

from .command import run as run

__all__ = ["run"]
