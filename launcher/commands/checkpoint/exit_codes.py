"""What the exit codes of `relaunch checkpoint` mean; wrong usage is 2, as everywhere."""

FINE = 0
DAMAGED = 1
"""Damage was found, or the disk refused."""
DIFFERENT = 1
CLOSED_PIPE = 141
"""Nobody reads stdout any more: 128 + SIGPIPE, as of any other command."""
