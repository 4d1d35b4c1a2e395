"""`relaunch watch RUN`: follow a run in the terminal; no torch."""

from .command import run as run

__all__ = ["run"]
