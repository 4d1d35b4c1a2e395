"""The models that `bench_step` takes steps with, and their data."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import TensorDataset
from train_bytes import BYTES, ByteTransformer

CLASSES = 10
BLOCKS = 4
SAMPLES = 4096
HEADS, DEPTH, CONTEXT = 4, 2, 32


class Net(nn.Module):
    """Residual blocks of two matrices: a sample is one row, so gradients are most of a step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU())
            for _ in range(BLOCKS)
        )
        self.back = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(BLOCKS))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block, back in zip(self.blocks, self.back, strict=True):
            x = x + back(block(x))
        logits: torch.Tensor = self.head(x)
        return logits


def rows(width: int) -> TensorDataset:
    """Return random rows, each of a class."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, width, generator=generator)
    return TensorDataset(x, torch.randint(0, CLASSES, (SAMPLES,), generator=generator))


class Bytes(ByteTransformer):
    """The transformer of `train_bytes`: every sample uses each weight CONTEXT times."""

    def __init__(self, width: int) -> None:
        super().__init__(width, DEPTH, HEADS, CONTEXT)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map bytes (batch, time) to logits (batch, 256, time), as `cross_entropy` takes them."""
        return super().forward(tokens).transpose(1, 2)


def windows(_: int) -> TensorDataset:
    """Return random bytes, and for each the one that follows."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, BYTES, (SAMPLES, CONTEXT + 1), generator=generator)
    return TensorDataset(text[:, :-1], text[:, 1:])


@dataclass(frozen=True)
class Task:
    """What all variants train."""

    net: Callable[[int], nn.Module]
    """Made of its width."""
    data: Callable[[int], TensorDataset]
    width: int

    def model(self) -> nn.Module:
        """Return a new model."""
        return self.net(self.width)

    def samples(self) -> TensorDataset:
        """Return its data."""
        return self.data(self.width)


MODELS = {"mlp": (Net, rows), "bytes": (Bytes, windows)}
"""What `--model` takes."""
