"""`relaunch verify`: does a script train the same on any ranks, strategies and after a resume?"""

from .command import run as run

__all__ = ["run"]
