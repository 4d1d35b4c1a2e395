"""scripts/install in a tree of its own, with nothing to install from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "install"


def install(tree: Path, python: Path) -> "subprocess.CompletedProcess[str]":
    (tree / "scripts").mkdir()
    shutil.copy(SCRIPT, tree / "scripts")
    (tree / "pyproject.toml").touch()
    (tree / "constraints.txt").write_text("torch==0.0.1\n")
    return subprocess.run(
        [tree / "scripts" / "install", "test"],
        env={**os.environ, "PYTHON": str(python), "RELAUNCH_VENV": "made", "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_environment_that_it_made_itself_may_be_active(tmp_path: Path) -> None:
    """It has no pip of its own; the interpreter below it has."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "own"], check=True)
    tree = tmp_path / "tree"
    tree.mkdir()
    done = install(tree, tmp_path / "own" / "bin" / "python")
    assert done.returncode == 1
    assert "No matching distribution found for torch==0.0.1" in done.stderr
    assert (tree / "made" / "bin" / "python").exists()


def test_an_interpreter_without_pip_and_means_to_make_it_is_told(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *_base_executable*) echo "$0"; exit ;; *pip*) exit 1 ;; esac\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    tree = tmp_path / "tree"
    tree.mkdir()
    done = install(tree, python)
    assert done.returncode == 2
    assert "has no pip" in done.stderr
    assert "PYTHON=" in done.stderr
