"""Makes its data with random numbers that nobody has seeded, while it is imported."""

import os
import signal
import sys
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from launcher import Run

RANDOM = np.random.default_rng()
WHOLE = TensorDataset(torch.arange(64.0).reshape(32, 2))
DATA: dict[str, Any] = {
    "made": TensorDataset(torch.from_numpy(RANDOM.random((16, 2), dtype=np.float32))),
    "chosen": Subset(WHOLE, RANDOM.permutation(32)[:16].tolist()),
}


def main(run: Run) -> None:
    """Train four steps."""
    job = run.prepare(
        model=lambda: nn.Linear(2, 1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-4),
        train=DATA[sys.argv[1]],
        global_batch=8,
        micro_batch=4,
        epochs=2,
        workers=1 if "worker" in sys.argv else 0,
    )
    for step in job:
        for (x,) in step:
            step.backward(job.model(x).square().sum(), count=len(x))
        if step.number == 1 and "notice" in sys.argv:
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    Run.start(main)
