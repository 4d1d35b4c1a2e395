"""The open descriptors of a process that forks ranks."""

import subprocess
import sys

SCRIPT = """
import os, resource
from launcher.workers.forkserver.descriptors import close_all_but, open_descriptors

kept, high = os.open("/dev/null", os.O_RDONLY), 900
os.dup2(kept, high)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
close_all_but({kept})
print(list(open_descriptors()) == [kept])
"""


def test_what_was_opened_before_the_limit_was_lowered_is_closed_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "True\n"
