"""scripts/bench_preemption.py counts what preemptions waste."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(260)
def test_a_notice_wastes_next_to_nothing_and_a_kill_what_was_not_saved(tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    words = ["--quick", "--only", "relaunch", "--save", str(file)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench_preemption.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = file.read_text()
    assert table in done.stdout
    rows = dict(re.findall(r"^\| (relaunch, .*?) \| (.*) \|$", table, re.MULTILINE))
    found = {name: cells.split(" | ") for name, cells in rows.items()}
    wasted = {name: int(cells[0]) for name, cells in found.items()}
    assert [cells[1] for cells in found.values()] == ["1", "3", "3", "3"]
    assert wasted["relaunch, undisturbed"] == 0
    assert 0 <= wasted["relaunch, notice, every 40"] <= 4
    assert wasted["relaunch, killed, every 40"] >= 20  # 99 and 108 lie 19 and 28 after a save
    for cells in list(found.values())[1:]:
        assert float(cells[5]) <= 1e-6
    assert "published, not measured here" in table
    assert "| wasted steps with a notice | 2 |" in table
