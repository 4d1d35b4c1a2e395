"""Fixtures for whole training runs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpointing import CheckpointStore

WORKERS = Path(__file__).parents[1] / "workers"
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Seen:
    """A run folder, read from outside while the run may be going on."""

    path: Path

    def records(self, name: str) -> list[dict[str, Any]]:
        """The complete lines of a JSONL file."""
        file = self.path / name
        lines = file.read_text().splitlines(True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.records("events.jsonl") if e["event"] == kind]

    def last_step(self) -> int:
        return max((r["step"] for r in self.records("metrics.jsonl")), default=0)

    def steps_on_disk(self) -> list[int]:
        return CheckpointStore(self.path / "checkpoints").steps()

    def state(self) -> dict[str, torch.Tensor]:
        """Every tensor of the newest checkpoint, whole, by neutral name."""
        store = CheckpointStore(self.path / "checkpoints")
        with store.open(store.steps()[0]) as reader:
            return {s.name: reader.read(s.fqn, s.key, 0, s.numel) for s in reader.manifest.specs()}

    def difference(self, other: "Seen", key: str = "") -> float:
        """The largest absolute difference of the final states, or of one key of them."""
        mine, theirs = self.state(), other.state()
        assert mine.keys() == theirs.keys()
        return max(
            float((mine[k].double() - theirs[k].double()).abs().max())
            for k in mine
            if k.startswith(key)
        )


@pytest.fixture(scope="session")
def small() -> str:
    """The script of these tests."""
    return str(WORKERS / "small.py")


@pytest.fixture
def run(tmp_path: Path) -> Seen:
    """The folder of this test's run."""
    return Seen(tmp_path / "run")


@pytest.fixture(scope="session")
def python() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a script as `python script.py`, without the launcher."""

    def start(*argv: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *argv],
            cwd=cwd,
            env=environ,
            timeout=100,
            capture_output=True,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, small: str, python: Callable[..., Any]
) -> Seen:
    """A run of the script in one plain process, which nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = python(small, cwd=folder)
    assert done.returncode == 0, done.stderr
    return Seen(folder / "runs" / "small")
