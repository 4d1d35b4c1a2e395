"""A whole run in which a rank hangs: seen, shown, killed, and gone on with."""

import os
import re
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(180)
TIMEOUT_S = "10"
"""Far above what a start takes on a busy machine."""


def test_a_hang_is_shown_and_the_run_goes_on(
    launch: Callable[..., Any], run: Any, small: str
) -> None:
    words = ("--nproc-per-node", "2", "--hang-timeout", TIMEOUT_S, "--max-restarts", "1")
    launched = launch(*words, "--run-dir", str(run.path), small, "--hang-at", "12")
    assert launched.wait(150) == 0, launched.stderr
    stacks = (run.path / "logs" / "attempt-1" / "stacks.txt").read_text()
    rank_0, _, rank_1 = stacks.partition("rank 1 (pid ")
    assert "in waits_for_ever" in rank_1
    assert "in waits_for_ever" not in rank_0
    assert "small.py" in rank_0
    where = r"after step 1[23]( \(rank 1 after step 12\))?"
    assert re.search(rf"no rank made progress for {TIMEOUT_S} s {where}; kill", launched.stderr)
    first, second = run.events("start")
    assert not first["resumed"]
    assert second["resumed"]
    assert 5 <= second["step"] <= 12
    (failed, done) = run.events("attempt")
    error = "no rank made progress"
    assert (failed["code"], failed["error"], failed["restart"]) == (137, error, True)
    assert done["code"] == 0


def test_ranks_that_never_meet_are_a_hang(launch: Any, small: str) -> None:
    """One rank never gets as far as its process group, so the other waits for it."""
    (launch.folder / "late.py").write_text(
        "import os, runpy, sys, time\n"
        "from launcher import Run\n"
        "if os.environ['RANK'] == '1': time.sleep(1000)\n"
        f"sys.path.insert(0, {os.path.dirname(small)!r})\n"
        f"sys.argv[0] = {small!r}\n"
        f"runpy.run_path({small!r}, run_name='__main__')\n"
    )
    launched = launch("--nproc-per-node", "2", "--hang-timeout", "3", "late.py")
    assert launched.wait(90) == 137, launched.stderr
    assert "no rank made progress for 3 s; killing all of them." in launched.stderr
    assert "init_process_group" in launched.stderr
