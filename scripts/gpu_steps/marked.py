"""The tests that are marked `gpu`."""

import subprocess
import sys

from kit import ON_GPU, ROOT, say

words = ["-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "-n", "0"]
# Not all tests: some import what is not installed there, and it takes a while.
files = sorted((ROOT / "tests").rglob("test_*.py"))
tests = [str(file) for file in files if "pytest.mark.gpu" in file.read_text(encoding="utf-8")]
ended = subprocess.run(
    [sys.executable, *words, *tests], cwd=ROOT, capture_output=True, text=True, check=False
)
print(ended.stdout[-4000:], ended.stderr[-2000:])
last = (ended.stdout.strip().splitlines() or ["nothing was printed"])[-1]
# 5: nothing was collected.
say("pytest -m gpu", last, passed=ended.returncode == 0 if ON_GPU else ended.returncode in (0, 5))
