"""The writer process on a disk that fails, or dying at an operation.

    python broken_writer.py OPERATION ACTION MEMORY_FD

ACTION is the number of an error, or "kill"; "slow" waits instead, until the parent is gone.
"""

import os
import signal
import sys
import time

from checkpointing.files import Files
from checkpointing.writer_process import serve

operation, action = sys.argv[1:3]


class Broken(Files):
    """Fails once."""


def strike(self, *args):
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "slow":
        time.sleep(0.3)
        return getattr(Files, operation)(self, *args)
    delattr(Broken, operation)
    raise OSError(int(action), "injected")


setattr(Broken, operation, strike)
serve(Broken())
