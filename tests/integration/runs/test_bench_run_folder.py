"""scripts/bench_run_folder.py measures what a long history costs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_a_short_history_is_measured() -> None:
    script = str(ROOT / "scripts" / "bench_run_folder.py")
    words = ("--records", "500", "--attempts", "5", "--rounds", "1")
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        *("start", "watch, 11 looks", "sweep, 5 looks", "report", "second report")
    ]
