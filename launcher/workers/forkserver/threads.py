"""The threads of this process, as far as a fork is concerned."""

import os


def num_threads() -> int:
    """Return how many threads this process has, those of native libraries included."""
    return len(os.listdir("/proc/self/task"))


def num_stray_threads() -> int:
    """Return how many threads besides this one a fork would cut off in whatever they do.

    A library that knows about forks, as OpenBLAS does, ends its threads before one: they are not
    counted, and are gone afterwards.
    """
    if num_threads() > 1:
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return num_threads() - 1
