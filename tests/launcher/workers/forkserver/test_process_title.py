"""What /proc tells about a fork, and what a fork may share."""

import os

import pytest

from launcher.workers.forkserver.descriptors import close_all_but, open_descriptors, unshareable
from launcher.workers.forkserver.process_title import rewrite_title
from launcher.workers.forkserver.threads import num_stray_threads, num_threads


def in_a_fork(function):
    """Return what the function returns in a forked process."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_end, repr(function()).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return eval(text)


def titled(command, environ):
    os.environ.clear()
    os.environ.update(environ)
    rewrite_title(command, environ)
    return [open(f"/proc/self/{name}", "rb").read() for name in ("cmdline", "environ")]


def test_command_and_environment_are_shown():
    environ = {"A": "1", "RELAUNCH_RUN_ID": "x", "B": "ü"}
    command, shown = in_a_fork(lambda: titled(["python", "train.py"], environ))
    assert command.rstrip(b"\0") == b"python\0train.py"
    assert shown.rstrip(b"\0").split(b"\0") == [b"RELAUNCH_RUN_ID=x", b"A=1", "B=ü".encode()]


def test_what_does_not_fit_is_cut_off():
    environ = {"A": "1" * 1_000_000, "RELAUNCH_RUN_ID": "x"}
    command, shown = in_a_fork(lambda: titled(["train.py"] * 100_000, environ))
    assert command.startswith(b"train.py\0train.py\0")
    assert shown.startswith(b"RELAUNCH_RUN_ID=x\0A=111")
    assert command.endswith(b"\0")
    assert shown.endswith(b"\0")


@pytest.mark.parametrize(
    ("opened", "reason"),
    [
        ({}, None),
        ({5: "/dev/null", 6: "/dev/urandom"}, None),
        ({5: "/dev/nvidiactl", 6: "/dev/null"}, "an import has opened /dev/nvidiactl"),
        ({5: "socket:[1]", 6: "/data"}, "an import has opened /data, socket:[1]"),
    ],
)
def test_unshareable(opened, reason):
    assert unshareable(opened) == reason


def kept_of(count):
    before = open_descriptors().keys()
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    close_all_but({*before, *fds[1::2]})
    return open_descriptors().keys() - before == set(fds[1::2])


def test_close_all_but():
    assert in_a_fork(lambda: kept_of(6))


def stray_of_a_new_thread():
    import threading

    before = num_stray_threads(), num_threads()
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return (*before, num_stray_threads(), num_threads())


def test_stray_threads():
    assert in_a_fork(stray_of_a_new_thread) == (0, 1, 1, 2)
