"""This command itself: its version, and how a process starts it, on a port that is free."""

import socket

OWN_START = (
    "import os, sys; "
    "sys.flags.safe_path or sys.path.__setitem__(0, os.path.dirname(sys.executable)); "
    "from launcher.cli import console; console()"
)
"""What `python -c` is given to be this command as its script would be.

Nothing comes from the working folder, which may hold a json.py of the user's. Not -P: the ranks,
which are forks, would not look beside their script either.
"""


def unused_port(address: str) -> int:
    """Return some port of an IPv4 address of this machine that nobody listens on; "": of all."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def own_version(otherwise: str) -> str:
    """Return the installed version.

    Args:
        otherwise: What to return for a source tree that is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version  # not for every start

    try:
        return version("relaunch")
    except PackageNotFoundError:
        return otherwise
