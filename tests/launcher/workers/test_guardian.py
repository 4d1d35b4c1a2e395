"""What the guardian sees among a machine's processes."""

import os
import subprocess
import sys
import time

import pytest

from launcher.workers.guardian import look, sweep

MARK = "RELAUNCH_RUN_ID=abc"
MARKED = f"HOME=/root\0{MARK}\0".encode()
PROGRAM = "41 (a (strange) name) S 1 41 41 0 -1 4194304 0 0"
KERNEL_THREAD = "41 (kworker/0:1) I 2 0 0 0 -1 2097152 0 0"
ENDED = "41 (python) Z 1 41 41 0 -1 4194304 0 0"


@pytest.mark.parametrize(
    ("environ", "stat", "expected"),
    [
        (MARKED, PROGRAM, ({41}, set())),
        (b"HOME=/root\0", PROGRAM, (set(), set())),
        (f"{MARK}d\0".encode(), PROGRAM, (set(), set())),
        (b"", PROGRAM, (set(), {41})),
        (b"", KERNEL_THREAD, (set(), set())),
        (b"", ENDED, (set(), set())),
    ],
)
def test_look(tmp_path, environ, stat, expected):
    (tmp_path / "41").mkdir()
    (tmp_path / "41" / "environ").write_bytes(environ)
    (tmp_path / "41" / "stat").write_text(stat)
    (tmp_path / "42").mkdir()  # it ended meanwhile
    (tmp_path / "uptime").touch()
    assert look(MARK, str(tmp_path)) == expected


def test_processes_without_an_environment_do_not_hold_up_a_sweep():
    bare = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], env={})
    try:
        while os.readlink(f"/proc/{bare.pid}/exe") != os.path.realpath(sys.executable):
            time.sleep(0.01)
        assert bare.pid in look(MARK)[1]
        assert sweep(MARK, bound_s=30.0) == []
        assert bare.poll() is None
    finally:
        bare.kill()
        bare.wait()
