"""`relaunch doctor`: is this machine, or this job's nodes, fit for a run?"""

from .command import run as run

__all__ = ["run"]
