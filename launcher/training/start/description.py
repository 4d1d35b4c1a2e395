"""What a run is made of, as run.json and trackers show it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import torch

from checkpointing import JSON
from strategies import Ranks

from ...contract.own_command import own_version


def describe_run(
    attempt: int,
    ranks: Ranks,
    seed: int,
    checkpoints: str | None,
    *,
    strategy: str,
    precision: str,
    loop: str | None = None,
) -> dict[str, JSON]:
    """Return what this run is made of, with its secrets.

    Args:
        attempt: number of this start.
        ranks: all of the run.
        seed: of all random numbers.
        checkpoints: where they are, if not in the run folder.
        strategy: as it was asked for.
        precision: its name.
        loop: whose it is; None: ours.
    """
    return {
        "script": str(Path(sys.argv[0]).resolve()),
        "arguments": sys.argv[1:],
        "attempt": attempt,
        "checkpoints": checkpoints,
        "seed": seed,
        "strategy": strategy,
        "precision": precision,
        "world_size": ranks.world_size,
        "device": ranks.device.type,
        "versions": {
            "relaunch": own_version("unknown"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "git_commit": _git_commit(Path(sys.argv[0]).resolve().parent),
        **({} if loop is None else {"loop": loop}),
    }


def _git_commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
