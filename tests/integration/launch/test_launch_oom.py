"""A rank that the kernel's OOM killer ends, in a memory cgroup of its own."""

import contextlib
import os
import time
import uuid
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

LIMIT_BYTES = 160 << 20
ROOT = Path("/sys/fs/cgroup")

EATS = """
pathlib.Path("/proc/self/oom_score_adj").write_text("1000")  # this one, and not the launcher
pathlib.Path(f"ready-{rank}").touch()
while rank == 0: time.sleep(0.1)
eaten = [bytearray(os.urandom(1 << 20) * 8) for _ in range(64)]
print("was not stopped")
"""


def own_group():
    """Return the folder of this process's memory cgroup and the name of its limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return ROOT / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
    return ROOT / path.lstrip("/"), "memory.max"


@pytest.fixture
def small_group():
    """Make a cgroup with little memory; skip where that is not allowed."""
    parent, limit = own_group()
    group = parent / f"relaunch-test-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made in {parent}: {error.strerror}")
    try:
        try:
            (group / limit).write_text(str(LIMIT_BYTES))
            for swap in ("memory.swap.max", "memory.swappiness"):
                with contextlib.suppress(OSError):
                    (group / swap).write_text("0")
        except OSError as error:
            pytest.skip(f"{group / limit} cannot be written: {error.strerror}")
        yield group
    finally:
        end = time.monotonic() + 10
        while group.exists():
            with contextlib.suppress(OSError):
                group.rmdir()
            assert time.monotonic() < end, f"{group} stays"
            time.sleep(0.05)


def test_the_report_names_the_oom_killer(launch, small_group):
    launched = launch("--nproc-per-node", "2", launch.script(EATS), cgroup=small_group)
    assert launched.wait() == 137, launched.stderr
    assert "was not stopped" not in launched.stdout
    assert any(
        line.startswith("relaunch: rank 1 (local rank 1, pid ")
        and "out of memory, the kernel's OOM killer ended 1 process." in line
        for line in launched.said()
    ), launched.said()
    assert os.path.exists(launch.folder / "ready-1")
