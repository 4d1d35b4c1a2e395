import io
import os
import pty
import termios
import tty

import pytest

from launcher.training.rank_console import LINE_S, REDRAW_S, RankConsole


@pytest.fixture
def terminal():
    read_end, write_end = pty.openpty()
    tty.setraw(write_end)
    termios.tcsetwinsize(write_end, (24, 80))
    stream = os.fdopen(write_end, "w")
    yield read_end, stream
    stream.close()
    os.close(read_end)


def read_until(fd: int, end: str) -> str:
    """Read what was written, which may come in pieces."""
    text = ""
    while not text.endswith(end):
        text += os.read(fd, 1000).decode()
    return text


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_on_a_terminal_a_line_is_written_over_and_makes_way_for_a_sentence(terminal):
    read_end, stream = terminal
    console = RankConsole(is_heard=True, out=lambda: stream)
    console.progress(lambda width: "step 1")
    console.progress(lambda width: "step 2")
    console.say("saved")
    assert read_until(read_end, "saved\n") == (
        "\r\x1b[Krelaunch: step 1\r\x1b[Krelaunch: step 2\r\x1b[Krelaunch: saved\n"
    )


def test_a_pseudo_terminal_without_columns_is_no_terminal(terminal):
    """As `srun -u` gives one to each task of a batch job, whose output goes into a file."""
    read_end, stream = terminal
    termios.tcsetwinsize(stream.fileno(), (0, 0))
    console = RankConsole(is_heard=True, out=lambda: stream)
    console.progress(lambda width: f"step 1 {width}")
    console.progress(lambda width: "step 2")
    console.say("saved")
    assert read_until(read_end, "saved\n") == (
        "relaunch: step 1 None\nrelaunch: step 2\nrelaunch: saved\n"
    )


def test_elsewhere_each_is_a_line():
    out, error = io.StringIO(), io.StringIO()
    console = RankConsole(is_heard=True, out=lambda: out, error=lambda: error)
    console.progress(lambda width: f"step 1 {width}")
    console.say("two\nlines")
    console.warn("beware")
    assert out.getvalue() == "relaunch: step 1 None\nrelaunch: two\nrelaunch: lines\n"
    assert error.getvalue() == "relaunch: warning: beware\n"


@pytest.mark.parametrize("on_terminal", [True, False])
def test_progress_is_shown_now_and_then(terminal, on_terminal):
    clock = Clock()
    out = terminal[1] if on_terminal else io.StringIO()
    console = RankConsole(is_heard=True, clock=clock, out=lambda: out)
    assert console.wants_progress()
    console.progress(lambda width: "step 1")
    interval_s = REDRAW_S if on_terminal else LINE_S
    clock.now += 0.9 * interval_s
    assert not console.wants_progress()
    clock.now += 0.2 * interval_s
    assert console.wants_progress()


def test_other_ranks_are_silent():
    out = io.StringIO()
    console = RankConsole(is_heard=False, out=lambda: out, error=lambda: out)
    console.say("x")
    console.warn("x")
    assert not console.wants_progress()
    assert out.getvalue() == ""


def test_output_into_a_file_on_a_full_disk_ends_nothing():
    full = os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(full, "w", closefd=False) as stream:
        console = RankConsole(is_heard=True, out=lambda: stream, error=lambda: stream)
        console.say("a line")
        console.warn("another")
        console.progress(lambda width: "step 1")
        os.dup2(os.open(os.devnull, os.O_WRONLY), full)  # there is room again
    os.close(full)
