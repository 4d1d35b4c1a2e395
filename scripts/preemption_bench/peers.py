"""Where the other libraries are: Trainer beside us, Lightning in an environment of its own."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from preemption_bench.processes import BenchError

LIGHTNING = "2.6.6"
TORCH = "2.13.0"
INSTALL_S = 1800.0
BIN = Path(sys.executable).parent


def binary_of(family: str, scratch: Path) -> Path:
    """Return what starts a training of a family; make its environment where it needs one.

    Raises:
        BenchError: The library is not to be had.
    """
    if family == "relaunch":
        return BIN / "relaunch"
    if family == "Trainer":
        if importlib.util.find_spec("transformers") is None:
            raise BenchError("transformers is not installed")
        return BIN / "torchrun"
    return _lightning(scratch / "lightning") / "bin" / "torchrun"


def _lightning(venv: Path) -> Path:
    print(f"installing lightning {LIGHTNING} and torch {TORCH} into {venv}", file=sys.stderr)
    constraint = venv.with_suffix(".txt")
    constraint.write_text(f"torch=={TORCH}\n")
    commands = (
        [sys.executable, "-m", "venv", str(venv)],
        [
            *(str(venv / "bin" / "pip"), "install", "--quiet", "--constraint", str(constraint)),
            f"lightning=={LIGHTNING}",
        ],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
        if done.returncode != 0:
            raise BenchError(f"{' '.join(command)} failed:\n{done.stderr[-1000:]}")
    return venv


def versions_of(binary: Path, *packages: str) -> str:
    """Return the versions of some packages in the environment of a launcher, as one clause."""
    code = (
        "import importlib.metadata as m, json, sys; "
        "print(json.dumps([m.version(name) for name in sys.argv[1:]]))"
    )
    command = [str(binary.with_name("python")), "-c", code, *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = zip(packages, json.loads(done.stdout), strict=True)
    return ", ".join(f"{name} {version}" for name, version in found)
