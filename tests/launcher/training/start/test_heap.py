"""Freed memory is kept for the next step."""

import ctypes
import subprocess
import sys

import pytest

SOURCE = """
import ctypes, resource, sys
from launcher.training.start.heap import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def step():
    taken = [c.malloc(2**24) for _ in range(6)]
    for one in taken:
        ctypes.memset(one, 1, 2**24)
    for one in taken:
        c.free(one)

step()  # the first are mapped, and glibc learns from it
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Return the page faults of five steps of 96 MiB."""
    command = [sys.executable, "-c", SOURCE, how]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return int(ended.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_steps_take_no_memory_anew() -> None:
    assert faults("leave") > 10_000
    assert faults("keep") < 1_000
