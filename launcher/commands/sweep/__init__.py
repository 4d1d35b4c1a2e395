"""`relaunch sweep`: many runs of one script, each launched and resumable; no torch."""

from .command import run as run

__all__ = ["run"]
