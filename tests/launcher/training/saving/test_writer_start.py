"""A rank that may open no more files says so, before the first step."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from launcher.training.saving.writer_start import open_writer
from strategies import ConfigError


@contextmanager
def files_left(count: int) -> Iterator[int]:
    """Let this process open so many files more."""
    fds = [os.dup(2) for _ in range(count)]
    limit = max(fds) + 1
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        while len(taken) < limit:  # what is free below
            fd = os.dup(2)
            if fd > limit:
                os.close(fd)
                break
            taken.append(fd)
        for fd in fds:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in taken:
            os.close(fd)


@pytest.mark.parametrize("count", [1, 2])
def test_without_room_for_its_pipe_the_sentence_says_what_helps(count: int) -> None:
    with files_left(count) as limit, pytest.raises(ConfigError) as refused:
        open_writer()
    assert str(refused.value) == (
        "checkpoints cannot be written beside the training: Too many open files (this process may "
        f"have {limit} files open). Close files that the script no longer needs, or before the "
        f"command write: ulimit -n {max(1024, 4 * limit)}"
    )


def test_three_files_are_enough() -> None:
    with files_left(3):
        open_writer().close()
