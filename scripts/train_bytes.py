"""Train a small byte-level transformer on the source text of Python's standard library.

    relaunch --nproc-per-node 2 --strategy fsdp scripts/train_bytes.py --steps 150

The text is found on the machine. Files are split into training and validation by a hash of their
names, so that the validation text is never seen in training.
"""

import argparse
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from launcher import Run
from strategies import EarlyStopping, Parameters, schedules

BYTES = 256
NATS_PER_BIT = float(np.log(2))
SKIPPED = {"test", "tests", "idle_test", "site-packages", "__pycache__", "lib2to3"}


class Block(nn.Module):
    """Causal self-attention and a perceptron, each after a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, time, width) to the same shape."""
        batch, time, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, -1).unbind(2)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class ByteTransformer(nn.Module):
    """Predicts the next byte; the embedding and the output layer share one matrix."""

    def __init__(self, width: int, depth: int, heads: int, context: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, width)
        self.position = nn.Parameter(torch.randn(context, width) * 0.02)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, BYTES, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map bytes (batch, time) to logits (batch, time, 256)."""
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Windows(torch.utils.data.Dataset[torch.Tensor]):
    """Consecutive windows of a text, of `context` + 1 bytes each."""

    def __init__(self, text: bytes, context: int, most: int | None = None) -> None:
        self.text = np.frombuffer(text, dtype=np.uint8)
        self.context = context
        whole = (len(text) - 1) // context
        self.count = whole if most is None else min(whole, most)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        start = index * self.context
        return torch.from_numpy(self.text[start : start + self.context + 1].astype(np.int64))


def standard_library() -> Iterator[Path]:
    """Yield the standard library's modules in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if not SKIPPED & set(path.relative_to(root).parts):
            yield path


def corpus() -> tuple[bytes, bytes]:
    """Return training and validation text."""
    train, val = bytearray(), bytearray()
    for path in standard_library():
        is_val = hashlib.sha256(path.name.encode()).digest()[0] < 26
        (val if is_val else train).extend(path.read_bytes())
    return bytes(train), bytes(val)


def measure(model: Any, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the bits that each byte costs."""
    losses = F.cross_entropy(
        model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
    )
    return {"bits_per_byte": losses / NATS_PER_BIT}


def adamw(parameters: Parameters, lr: float) -> torch.optim.Optimizer:
    """Weight decay for matrices, none for biases and norms."""
    decayed = [p for _, p in parameters.named() if p.ndim > 1]
    plain = [p for _, p in parameters.named() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=lr
    )


def main(run: Run) -> None:
    """Train for a number of steps, measuring on text that was never trained on."""
    arguments = parse()
    train_text, val_text = corpus()
    train = Windows(train_text, arguments.context, arguments.steps * arguments.batch)
    val = Windows(val_text, arguments.context, 64)
    job = run.prepare(
        model=lambda: ByteTransformer(arguments.width, arguments.depth, 4, arguments.context),
        optimizer=lambda parameters: adamw(parameters, arguments.lr),
        schedule=schedules.warmup(20).then(schedules.cosine(floor=0.1)),
        train=train,
        global_batch=arguments.batch,
        micro_batch=arguments.micro_batch,
        epochs=1,
        evaluate_every=f"{arguments.evaluate_every} steps",
        stop=EarlyStopping("val/bits_per_byte", mode="min", patience=10),
        max_grad_norm=1.0,
        forward=lambda model, batch: model(batch[:, :-1]),  # so that memory can be estimated
    )
    for step in job:
        for batch in step:
            logits = job.model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")
            step.backward(loss, count=batch[:, 1:].numel())
        if step.evaluation_due:
            step.evaluate(val, measure)
    job.export("best")


def parse() -> argparse.Namespace:
    """Read the script's own arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16, help="windows in one optimizer step")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--evaluate-every", type=int, default=25)
    return parser.parse_args()


if __name__ == "__main__":
    Run.start(main)
