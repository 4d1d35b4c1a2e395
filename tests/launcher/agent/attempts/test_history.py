"""What the launcher keeps of the attempts of one start, and of a run that is started anew."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

THOUSAND = """
import json, sys
from pathlib import Path
from types import SimpleNamespace

from launcher.agent.attempts.history import AttemptHistory
from launcher.contract.launcher_signals import SignalInbox
from launcher.rendezvous.messages import NodeEnd
from launcher.run_folder import folder as folder_module
from launcher.run_folder.attempt_number import next_number
from launcher.run_folder.folder import RunFolder
from launcher.run_folder.lock import FolderLock

folder_module.RECENT_BYTES = 4096  # the end of the record that a start reads
path = Path(sys.argv[1])
plan = SimpleNamespace(
    uses_run=True,
    max_restarts=2000,
    run=SimpleNamespace(run_dir=path),
    program=SimpleNamespace(args=("--lr", "1")),
)
history = AttemptHistory(plan, SignalInbox(), print)
resident = {}


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


for attempt in range(1, 1001):
    folder = RunFolder(path)
    folder.create()
    FolderLock.take(path, warn=print).require_held()
    assert next_number(path) == attempt
    folder.recent_events()
    folder.forget_metrics_after(attempt * 10)
    folder.event("start", attempt=attempt, step=attempt * 10)
    for step in range(3):
        folder.metrics({"step": attempt * 10 + step + 1, "attempt": attempt, "time": 1.0})
    end = NodeEnd(
        code=1,
        num_ranks=2,
        failure=None,
        lived_s=100.0,
        joined=True,
        gives_signs=True,
        step=attempt * 10 + 10,
        error=f"RuntimeError: CUDA error: an illegal memory access at {attempt}, " + 200 * "x",
        report="",
    )
    assert history.decide({0: end}, 1).restart
    if attempt in (500, 1000):
        resident[attempt] = resident_bytes()
print(json.dumps(resident[1000] - resident[500]))
"""


@pytest.mark.timeout(300)
def test_a_thousand_attempts_do_not_make_the_processes_larger(tmp_path: Path) -> None:
    """Resident memory: of a rank's record keeping and of the launcher's, one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", THOUSAND, str(tmp_path)],
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) < 1 << 20
