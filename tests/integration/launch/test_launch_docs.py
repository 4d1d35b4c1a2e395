"""The script of docs/launching.md that comes back without `Run`, as it stands there."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.proc_files import proc_bytes

pytestmark = pytest.mark.timeout(120)
PAGE = Path(__file__).parents[3] / "docs" / "launching.md"
TWO = ("--nproc-per-node", "2")


def steps_of(launched):
    return [int(step) for step in re.findall(r"^step (\d+)$", launched.stdout, re.MULTILINE)]


def ranks_of(launched):
    """The processes of the ranks."""
    found = []
    for pid in launched.processes():
        environ = proc_bytes(pid, "environ")
        found += [pid] if b"\0LOCAL_RANK=" in environ else []
    return found


@pytest.mark.quick_cases("launcher-warm", "rank-cold", "everybody-warm")
@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
@pytest.mark.parametrize("whom", ["launcher", "rank", "everybody"])
def test_a_script_without_run_comes_back(launch, whom):
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (launch.folder / "train.py").write_text(source)
    first = launch(*TWO, "train.py")
    while len(steps_of(first)) < 3:
        assert not first.ended(), first.stderr
    ranks = ranks_of(first)
    assert len(ranks) == 2
    for pid in {"launcher": [], "rank": ranks[1:], "everybody": ranks}[whom]:
        os.kill(pid, signal.SIGTERM)
    if whom != "rank":
        first.send(signal.SIGTERM)
    assert first.wait() == 75, first.stderr
    second = launch(*TWO, "train.py")
    assert second.wait() == 0, second.stderr
    assert steps_of(first) + steps_of(second) == list(range(1, 201))
