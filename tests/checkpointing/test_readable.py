"""Waiting for what can be read."""

import fcntl
import os
import resource

import pytest

from checkpointing.readable import readable


def test_only_what_can_be_read_is_returned() -> None:
    first, second = os.pipe(), os.pipe()
    try:
        assert readable([first[0], second[0]], 0.0) == []
        os.write(second[1], b"x")
        assert readable([first[0], second[0]], 10.0) == [second[0]]
    finally:
        for fd in (*first, *second):
            os.close(fd)


def test_a_process_with_more_than_a_thousand_files_open_hears_too() -> None:
    """Of select's 1,024 descriptors a script with many files open may leave none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"this process may have {hard} files open at most")
    read_fd, write_fd = os.pipe()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    high_fd = fcntl.fcntl(read_fd, fcntl.F_DUPFD_CLOEXEC, 1100)
    try:
        assert not readable([high_fd], 0.0)
        os.write(write_fd, b"x")
        assert readable([high_fd], 10.0) == [high_fd]
        os.close(write_fd)
        os.read(high_fd, 1)
        assert readable([high_fd], 10.0) == [high_fd]  # the end is something to read
    finally:
        for fd in (read_fd, high_fd):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
