"""A run that Ray's workers start; with --gate N it waits at step N for a notice, in one start."""

import argparse
import os
import time
from pathlib import Path

import linear_run  # type: ignore[import-not-found]

from launcher import Run
from launcher.contract.environment import WARNING_FILE

WAIT_S = 300.0


def main(run: Run) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--gate", type=int)
    asked = parser.parse_args()
    job = linear_run.prepare(run, save_every="100 steps", epochs=asked.epochs, log_every=1)
    gate = run.folder.path / "gate"
    is_gated = not gate.exists()
    for step in job:
        linear_run.train(job, step)
        if is_gated and step.number == asked.gate:
            wait_for_notice(gate, int(os.environ["RANK"]))


def wait_for_notice(gate: Path, rank: int) -> None:
    """Wait until this rank's launcher has a notice; a file says that it waits."""
    gate.with_name(f"waits-{rank}").touch()
    noticed = Path(os.environ[WARNING_FILE])
    end = time.monotonic() + WAIT_S
    while not noticed.exists() and time.monotonic() < end:
        time.sleep(0.02)
    gate.touch()


if __name__ == "__main__":
    Run.start(main)
