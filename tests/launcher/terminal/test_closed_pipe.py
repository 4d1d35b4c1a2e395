"""Every command whose reader has seen enough, such as `head`, ends as other programs do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import launcher
from launcher.terminal.console import CLOSED_PIPE

ROOT = Path(launcher.__file__).parents[1]
MAIN = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from launcher.cli import console; console()"


@pytest.mark.parametrize(
    "words",
    ["--help", "--version", "--print-completion bash", "--dry-run train.py"],
)
def test_a_reader_that_is_gone_is_no_error(words: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import torch\n")
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", MAIN, *words.split()],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=30) == CLOSED_PIPE
