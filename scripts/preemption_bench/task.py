"""The model, the data and the counting of steps that all scripts of this benchmark share.

Needs torch alone, and knows none of the libraries.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import nn

GLOBAL_BATCH = 32
RANKS = 2
CLASSES = 10
EPOCHS = 8
LR = 1e-3
MAX_GRAD_NORM = 1.0
RECORD_BYTES = 8
"""A step's number in seven digits and the end of the line."""


def arguments() -> argparse.Namespace:
    """Return what every script of this benchmark is given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--width", type=int, required=True, help="of the network's inputs")
    parser.add_argument("--save-every", required=True, help="steps, or auto")
    parser.add_argument("--just-in-time", action="store_true")
    return parser.parse_args()


def net(width: int) -> nn.Module:
    """Return the network, the same at each start."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(width, 2 * width),
        nn.GELU(),
        nn.Linear(2 * width, 2 * width),
        nn.GELU(),
        nn.Linear(2 * width, CLASSES),
    )


def samples(steps: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels of the eighth part of that many steps, the same at each start."""
    generator = torch.Generator().manual_seed(1)
    count = GLOBAL_BATCH * steps // EPOCHS
    x = torch.randn(count, width, generator=generator)
    return x, torch.randint(0, CLASSES, (count,), generator=generator)


class StepFile:
    """One record for each optimizer step that rank 0 has taken, whatever happens to it then.

    An append of a few bytes without a buffer: a kill right after the step hides nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._fd: int | None = None
        if int(os.environ.get("RANK", "0")) == 0:
            path = folder / "steps"
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def add(self, step: int) -> None:
        """Note that the optimizer has stepped, for the `step`th time of the training."""
        if self._fd is not None:
            os.write(self._fd, f"{step:07d}\n".encode())


def write_final(folder: Path, model: nn.Module) -> None:
    """Rank 0 writes the parameters of a training that has come to its end."""
    if int(os.environ.get("RANK", "0")) == 0:
        flat = torch.cat([p.detach().flatten() for p in model.parameters()])
        torch.save(flat, folder / "final.part")
        (folder / "final.part").rename(folder / "final.pt")
