"""A GPT-2 of transformers, made anew and small, on sequences that count upwards.

relaunch --nproc-per-node 2 scripts/examples/hugging_face.py
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel

from launcher import Run
from strategies import schedules

TOKENS, LENGTH, SEQUENCES = 32, 16, 256
"""TOKENS words; each of SEQUENCES has LENGTH of them and its continuation."""


def counted() -> TensorDataset:
    """Return sequences of tokens, shape (LENGTH + 1,), that go up by one to three."""
    first = torch.arange(SEQUENCES).unsqueeze(1)
    by = 1 + torch.arange(SEQUENCES).unsqueeze(1) % 3
    return TensorDataset((first + by * torch.arange(LENGTH + 1)) % TOKENS)


def model() -> Any:
    """Return the model; its dropout draws in each micro-batch."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=TOKENS,
            n_positions=LENGTH,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def main(run: Run) -> None:
    """Train with the sum over tokens as loss and their number as count."""
    job = run.prepare(
        model=model,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
        schedule=schedules.warmup(5).then(schedules.cosine(floor=0.1)),
        train=counted(),
        global_batch=32,
        micro_batch=8,
        epochs=10,
        max_grad_norm=1.0,
    )
    for step in job:
        for (tokens,) in step:
            logits = job.model(tokens[:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
            step.backward(loss, count=tokens[:, 1:].numel())


if __name__ == "__main__":
    Run.start(main)
