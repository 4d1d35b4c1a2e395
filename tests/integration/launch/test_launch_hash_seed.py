"""All ranks share one seed of hash(): another one at each start, unless PYTHONHASHSEED says one.

The command is started as a Python of its own: a warm rank has the seed of its launcher's process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[3]
SCRIPT = 'print(hash("relaunch"))'
COMMAND = "import sys; from launcher.cli import main; sys.exit(main())"


def printed(folder, *words, seed=None):
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environ.pop("PYTHONHASHSEED", None)
    if seed is not None:
        environ["PYTHONHASHSEED"] = seed
    command = [sys.executable, *words]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(line.split()[-1]) for line in done.stdout.splitlines()]


def of_ranks(folder, *options, seed=None):
    (folder / "train.py").write_text(SCRIPT)
    words = ("--nproc-per-node", "2", *options, "train.py")
    return printed(folder, "-c", COMMAND, *words, seed=seed)


def test_one_seed_for_all_ranks_and_another_at_each_start(tmp_path):
    one, other = of_ranks(tmp_path), of_ranks(tmp_path)
    assert one[0] == one[1]
    assert other[0] == other[1]
    assert one != other


@pytest.mark.parametrize("options", [(), ("--cold",)], ids=["warm", "cold"])
def test_the_seed_that_is_given_is_used(tmp_path, options):
    (wanted,) = printed(tmp_path, "-c", SCRIPT, seed="7")
    assert of_ranks(tmp_path, *options, seed="7") == [wanted] * 2
