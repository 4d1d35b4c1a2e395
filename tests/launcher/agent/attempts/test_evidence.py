"""The exception in a rank's last lines, and the OOM killer's count."""

from pathlib import Path

import pytest

import launcher
from launcher.agent.attempts.evidence import (
    UNLIKE_COLLECTIVES,
    exception_of,
    oom_kills,
    without_launcher,
)

TRACEBACK = ["Traceback (most recent call last):", '  File "x.py", line 1, in <module>', "    f()"]


@pytest.mark.parametrize(
    ("lines", "exception"),
    [
        ([], None),
        (["step 1", "ValueError: quoted in a print"], None),
        ([*TRACEBACK, "ValueError: boom"], "ValueError: boom"),
        ([*TRACEBACK, "KeyError: 'a'", "", *TRACEBACK, "my.Error: b"], "my.Error: b"),
        ([*TRACEBACK, "    ~~^", "KeyboardInterrupt"], "KeyboardInterrupt"),
        ([*TRACEBACK, "RuntimeError: first line", "second line"], "RuntimeError: first line"),
        (["Fatal Python error: Segmentation fault", "", "Current thread"], None),
        ([*TRACEBACK], None),
        ([f"[rank1]: {line}" for line in (*TRACEBACK, "ValueError: a")], "ValueError: a"),
    ],
)
def test_exception(lines, exception):
    if exception is None and lines and lines[0].startswith("Fatal"):
        exception = lines[0]
    assert exception_of(lines) == exception


def test_an_abort_for_unlike_collectives_is_explained() -> None:
    aborted = [
        "terminate called after throwing an instance of 'gloo::EnforceNotMet'",
        "  what():  [enforce fail at pair.cc:456] op.preamble.length <= op.nbytes. 103224 vs 103. "
        "Received data size doesn't match expected size. Is there a distributed collective "
        "mismatch in your code?",
        "Fatal Python error: Aborted",
        "",
        "Thread 0x00007f (most recent call first):",
    ]
    assert exception_of(aborted) == f"Fatal Python error: Aborted. {UNLIKE_COLLECTIVES}"
    assert exception_of(aborted[2:]) == "Fatal Python error: Aborted"


def test_the_stack_of_a_crash_is_shown_without_the_launchers_own_frames():
    own = f'  File "{Path(launcher.__file__).parent}/main_module.py", line 37 in run_and_exit'
    users = [
        '  File "/home/me/launcher/train.py", line 3 in crashes',
        '  File "x.py", line 1, in f',
    ]
    assert without_launcher(["step 1", *users, own, ""]) == ["step 1", *users, ""]


@pytest.mark.parametrize(
    ("group", "file", "text", "count"),
    [
        ("0::/job/step", "job/step/memory.events", "low 0\noom 3\noom_kill 2\n", 2),
        ("0::/seen/from/the/host", "memory.events", "oom_kill 1\n", 1),
        (
            "4:memory:/job\n0::/",
            "memory/job/memory.oom_control",
            "oom_kill_disable 0\noom_kill 5",
            5,
        ),
        ("0::/", "other", "", 0),
        ("nonsense", "other", "", 0),
    ],
)
def test_oom_kills(tmp_path, group, file, text, count):
    (tmp_path / "cgroup").write_text(group if ":" in group else "0::/x")
    path = tmp_path / "fs" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert oom_kills(tmp_path / "cgroup", tmp_path / "fs") == count


def test_oom_kills_where_nothing_is_readable(tmp_path):
    assert oom_kills(tmp_path / "none", tmp_path) == 0
