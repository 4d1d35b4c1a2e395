"""How a process starts launchers: without the console script, and on a port that is free."""

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
