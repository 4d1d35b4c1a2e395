"""Too few descriptors are told before anything starts."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.plan.open_files import MIN_OPEN_FILES, require_open_files


@pytest.mark.parametrize("limit", [MIN_OPEN_FILES, 1024, resource.RLIM_INFINITY])
def test_enough(limit):
    require_open_files(limit)


@pytest.mark.parametrize("limit", [0, 14, MIN_OPEN_FILES - 1])
def test_too_few(limit):
    with pytest.raises(UsageError, match=rf"may have {limit} files open, .* ulimit -n 1024"):
        require_open_files(limit)


def test_the_command_says_so_and_its_remedy_helps(tmp_path):
    (tmp_path / "train.py").write_text("print('trained')")
    start = "from launcher.cli import main; main()"
    command = f'"{sys.executable}" -c "{start}" --dry-run train.py'
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}

    def told(line):
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr

    code, error = told(f"ulimit -Sn 32; {command}")
    assert code == 2
    assert error.startswith("relaunch: error: this process may have 32 files open")
    remedy = error.strip().rpartition("write: ")[2]
    assert told(f"ulimit -Sn 32; {remedy}; {command}") == (0, "")
