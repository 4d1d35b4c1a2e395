"""How a process starts the launcher without its console script."""

OWN_START = (
    "import os, sys; "
    "sys.flags.safe_path or sys.path.__setitem__(0, os.path.dirname(sys.executable)); "
    "from launcher.cli import console; console()"
)
"""What `python -c` is given to be this command as its script would be.

Nothing comes from the working folder, which may hold a json.py of the user's. Not -P: the ranks,
which are forks, would not look beside their script either.
"""
