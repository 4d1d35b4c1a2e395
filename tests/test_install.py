"""scripts/install in a tree of its own, with nothing to install from."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def install(tree: Path, python: Path, **pip: str) -> "subprocess.CompletedProcess[str]":
    """Run the script with no configuration of pip but the given variables."""
    (tree / "scripts").mkdir(exist_ok=True)
    for name in ("install", "pip_in_the_way.py"):
        shutil.copy(SCRIPTS / name, tree / "scripts")
    (tree / "pyproject.toml").touch()
    (tree / "constraints.txt").write_text("torch==0.0.1\n")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    pip = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, **pip}
    return subprocess.run(
        [tree / "scripts" / "install", "test"],
        env={**inherited, "PYTHON": str(python), "RELAUNCH_VENV": "made", **pip},
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


@pytest.mark.parametrize("place", ["config", "environment"])
def test_a_constraint_of_pip_that_rules_a_tested_version_out_is_named(
    tmp_path: Path, place: str
) -> None:
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("numpy<9  # of all\n-c more.txt\n")
    (tmp_path / "more.txt").write_text("Torch==0.0.2+cpu\n")
    given = {"PIP_CONSTRAINT": str(allowed)}
    if place == "config":
        (tmp_path / "pip.conf").write_text(f"[global]\nconstraint = {allowed}\n")
        given = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    tree = tmp_path / "tree"
    tree.mkdir()
    done = install(tree, Path(sys.executable), **given)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("scripts/install:")]
    assert len(said) == 1
    assert f"the line 'Torch==0.0.2+cpu' of {tmp_path / 'more.txt'}" in said[0]
    assert ("PIP_CONSTRAINT, rules" in said[0]) == (place == "environment")

    remedy, value = re.findall(r"with (PIP_\w+)=(\S+) scripts/install", said[0])[0]
    done = install(tree, Path(sys.executable), **{**given, remedy: value})
    assert "No matching distribution found for torch==0.0.1" in done.stderr
    assert "scripts/install:" not in done.stderr


def test_a_constraint_of_pip_that_allows_the_tested_version_is_not_in_the_way(
    tmp_path: Path,
) -> None:
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("torch==0.0.1+cpu\nnumpy==1; python_version < '3'\n")
    tree = tmp_path / "tree"
    tree.mkdir()
    done = install(tree, Path(sys.executable), PIP_CONSTRAINT=str(allowed))
    assert done.returncode == 1
    assert "scripts/install:" not in done.stderr
