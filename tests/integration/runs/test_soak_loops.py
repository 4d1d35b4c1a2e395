"""Loops of several kinds, interrupted at seeded moments: as many ranks, the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]
WORKERS = ROOT / "tests" / "integration" / "workers"
OWN = "own_loop.py"
LOOPS = {
    "ddp": (OWN, "--wrap", "ddp", "--dropout", "--epochs", "4"),
    "fsdp": (OWN, "--wrap", "fsdp", "--dropout", "--epochs", "4"),
    "deepspeed": (OWN, "--wrap", "zero2", "--epochs", "4"),
    "accelerate": ("own_loop_accelerate.py",),
    "fabric": ("own_loop_fabric.py",),
    "transformers": ("trainer_worker.py", json.dumps({"args": {"max_steps": 20}})),
    "lightning": ("lightning_worker.py", json.dumps({"trainer": {"max_epochs": 2}})),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_every_moment_keeps_the_curve(loop: str, tmp_path: Path) -> None:
    if loop not in ("ddp", "fsdp"):
        pytest.importorskip("lightning" if loop == "fabric" else loop)
    script, *arguments = LOOPS[loop]
    soak = [sys.executable, str(ROOT / "scripts" / "soak_loops.py"), "--instants", "4"]
    done = subprocess.run(
        [*soak, str(WORKERS / script), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 notices, 0 of" in done.stdout
