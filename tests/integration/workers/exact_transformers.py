"""A small model of transformers, trained by `Run.fit` with exact sums.

usage: exact_transformers.py {gpt2,t5,vit}
"""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from launcher import Run
from strategies import Parameters

SAMPLES, LENGTH, TOKENS = 96, 12, 50
KIND = sys.argv[1]


class Samples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Random tokens, or random pictures with a class each."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(2, TOKENS, (SAMPLES, LENGTH), generator=generator)
        self.pictures = torch.randn(SAMPLES, 3, 16, 16, generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if KIND == "vit":
            return {"pixel_values": self.pictures[index], "labels": self.ids[index, 0] % 7}
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def model() -> Any:
    if KIND == "gpt2":
        small = GPT2Config(vocab_size=TOKENS, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2)
        return GPT2LMHeadModel(small)
    if KIND == "t5":
        return T5ForConditionalGeneration(
            T5Config(
                vocab_size=TOKENS, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
                decoder_start_token_id=0,
            )
        )  # fmt: skip
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            image_size=16, patch_size=4, num_labels=7, hidden_dropout_prob=0.1,
        )
    )  # fmt: skip


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    logits = model(**batch).logits
    labels = batch["labels"]
    flat = logits.reshape(-1, logits.shape[-1])
    return F.cross_entropy(flat, labels.reshape(-1), reduction="sum"), labels.numel()


def adam(parameters: Parameters) -> torch.optim.Optimizer:
    # With eps=1e-8 a gradient that is nothing but rounding makes a whole step.
    return torch.optim.AdamW(parameters, lr=1e-3)


def main(run: Run) -> None:
    run.fit(
        model=model,
        optimizer=adam,
        train=Samples(),
        loss=loss,
        global_batch=12,
        micro_batch=2,
        epochs=10,
        max_grad_norm=1.0,
        log_every=1,
        export=None,
    )


if __name__ == "__main__":
    Run.start(main, exact="--no-exact" not in sys.argv)
