"""Models and data for exact runs beside those of task.py: each sample is (input, label, weight).

A weight of 0 masks a sample, or a byte of one. The 47 samples of each leave an uneven last batch.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))

SAMPLES, TOKENS, LENGTH = 47, 50, 12
Data = torch.utils.data.TensorDataset


class Digits(nn.Module):
    """The network of scripts/train_digits.py: convolutions, dropout."""

    def __init__(self) -> None:
        super().__init__()
        from train_digits import Net

        self.net = Net(channels=8, width=24)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(pixels)
        return out


class Bytes(nn.Module):
    """The transformer of scripts/train_bytes.py, whose embedding is its output layer too."""

    def __init__(self) -> None:
        super().__init__()
        from train_bytes import ByteTransformer

        self.net = ByteTransformer(width=16, depth=2, heads=2, context=LENGTH)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(text)
        return out.transpose(1, 2)


class ResNet(nn.Module):
    """Residual blocks with BatchNorm and ReLU, which chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 8, 3, padding=1, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Dropout(0.1),
                nn.Conv2d(8, 8, 3, padding=1, bias=False),
            )
            for _ in range(2)
        )
        self.head = nn.Linear(8, 7)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        x = self.stem(pictures)
        for block in self.blocks:
            x = x + block(x)
        out: torch.Tensor = self.head(F.relu(x).mean((2, 3)))
        return out


class GPT2(nn.Module):
    """GPT-2 of transformers."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        self.net = GPT2LMHeadModel(
            GPT2Config(vocab_size=TOKENS, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(input_ids=tokens).logits
        return out.transpose(1, 2)


class T5(nn.Module):
    """T5 of transformers, whose embedding is used three times."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import T5Config, T5ForConditionalGeneration

        self.net = T5ForConditionalGeneration(
            T5Config(
                vocab_size=TOKENS, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
                decoder_start_token_id=0,
            )
        )  # fmt: skip

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(input_ids=tokens, decoder_input_ids=tokens).logits
        return out.transpose(1, 2)


class ViT(nn.Module):
    """ViT of transformers."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTForImageClassification

        self.net = ViTForImageClassification(
            ViTConfig(
                hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                image_size=16, patch_size=4, num_labels=7, hidden_dropout_prob=0.1,
            )
        )  # fmt: skip

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(pixel_values=pictures).logits
        return out


def _masked(inputs: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> Data:
    weights = (torch.rand(labels.shape, generator=generator) > 0.3).float()
    return Data(inputs[:SAMPLES], labels[:SAMPLES], weights[:SAMPLES])


def _text(generator: torch.Generator) -> Data:
    tokens = torch.randint(2, TOKENS, (SAMPLES, LENGTH + 1), generator=generator)
    return _masked(tokens[:, :-1], tokens[:, 1:], generator)


def _pictures(generator: torch.Generator) -> Data:
    labels = torch.randint(0, 7, (SAMPLES,), generator=generator)
    return _masked(torch.randn(SAMPLES, 3, 16, 16, generator=generator), labels, generator)


def _digits(generator: torch.Generator) -> Data:
    from train_digits import digits

    pixels, labels = digits().tensors
    return _masked(pixels, labels, generator)


_FOUND: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator], Data]]] = {
    "Digits": (Digits, _digits),
    "Bytes": (Bytes, _text),
    "ResNet": (ResNet, _pictures),
    "GPT2": (GPT2, _text),
    "T5": (T5, _text),
    "ViT": (ViT, _pictures),
}


def recipe_of(name: str) -> dict[str, Any]:
    """The model and the data of a name, as arguments of a job; {}: task.py has it."""
    if name not in _FOUND:
        return {}
    model, data = _FOUND[name]
    return {"model": model, "train": data(torch.Generator().manual_seed(4))}
