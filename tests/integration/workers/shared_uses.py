"""Models that use a tensor several times, as input or output of modules or as a parameter.

Each use adds a gradient, and three of them have several sums. Input: tokens (samples, 5), long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

CLASSES, WIDTH = 13, 17


class Cross(nn.Module):
    """Takes a context as keys and as values, and a bias that may be a parameter of its parent."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: torch.Tensor, context: torch.Tensor, *, bias: torch.Tensor) -> Any:
        scores = self.query(x) @ self.key(context).transpose(1, 2) + bias
        return x + torch.tanh(bias).mean() + scores.softmax(-1) @ (self.value(context) + context)


class _Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.hidden(self.embed(tokens)).mean(1))
        return out

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Crossed(_Embedded):
    """One context, one computed bias and one raw parameter for every block, as in T5."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.linspace(-1, 1, 25).view(5, 5))
        self.blocks = nn.ModuleList(Cross() for _ in range(3))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        context, bias = torch.tanh(self.encoder(x)), torch.sin(self.bias)
        for number, block in enumerate(self.blocks):
            x = block(x, context, bias=self.bias if number == 1 else bias)
        return x + context


class Recomputed(Crossed):
    """With blocks that are computed again in the backward."""


class Attention(nn.Module):
    """Multi-head attention that is given query, key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = self.query(q) @ self.key(k).transpose(1, 2) + (q * k).mean()
        out: torch.Tensor = scores.softmax(-1) @ self.value(v) + q * v
        return out


class Threefold(_Embedded):
    """The same tensor as query, key and value, beside a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention() for _ in range(2))
        self.whole = nn.MultiheadAttention(WIDTH, 1, batch_first=True)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = torch.tanh(x) + block(x, x, x) + x.square()
        out: torch.Tensor = x + self.whole(x, x, x, need_weights=False)[0] + x.sin()
        return out


class Tied(nn.Module):
    """One embedding in an encoder, a decoder, the head, and by its raw weight in the parent."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, WIDTH)
        self.encoder, self.decoder = Side(self.embed), Side(self.embed)
        self.head = nn.Linear(WIDTH, CLASSES, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.encoder(tokens) + self.decoder(tokens.flip(1)) + self.embed(tokens).mean(1)
        x = x + torch.tanh(x @ self.embed.weight.T) @ self.embed.weight
        out: torch.Tensor = self.head(x) + F.linear(x, self.embed.weight)
        return out


class Side(nn.Module):
    """A half of `Tied`, with the embedding as a part of its own."""

    def __init__(self, embed: nn.Embedding) -> None:
        super().__init__()
        self.embed = embed
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mix(self.embed(tokens)).amax(1) + self.embed(
            tokens + 1 - tokens
        ).mean(1)
        return out


class Repeated(_Embedded):
    """Two layers, each called three times, as in ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Cross() for _ in range(2))
        self.bias = nn.Parameter(torch.linspace(-1, 1, 25).view(5, 5))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        first = x
        for _ in range(3):
            for layer in self.layers:
                x = layer(x, first, bias=self.bias)
        return x


class Pair(NamedTuple):
    """A tuple with names."""

    keys: torch.Tensor
    values: torch.Tensor


class Nested(nn.Module):
    """Takes tensors inside of tuples, and returns some in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, pair: Pair, *, more: tuple[Any, ...]) -> dict[str, Any]:
        first, (second, third) = more
        keys = self.mix(pair.keys) * first + pair.values.sin() * pair.keys
        for x in (*pair, *more[1]):
            keys = keys + torch.tanh(x) * first
        return {"x": torch.tanh(keys), "more": [second * third, (self.mix(keys), None)]}


class Contained(_Embedded):
    """Inputs and outputs of blocks in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Nested() for _ in range(2))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        first, one = x, torch.cos(x)
        for block in self.blocks:
            found = block(Pair(x, first), more=(x, (first, one)))
            x, (product, (mixed, _)) = found["x"], found["more"]
            x = torch.tanh(x) * product.sin() + x * mixed.sin() + first * x
        return x + first


class Fills(nn.Module):
    """Appends a loss of its own to a list, and counts in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(
        self, x: torch.Tensor, losses: list[torch.Tensor], *, seen: dict[str, Any]
    ) -> torch.Tensor:
        y = torch.tanh(self.mix(x))
        losses.append(y.square().mean((1, 2)))
        seen["number"] += 1
        seen["last"] = y
        return y


class Filled(_Embedded):
    """Blocks that fill what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Fills() for _ in range(3))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        losses: list[torch.Tensor] = []
        seen: dict[str, Any] = {"number": 0, "last": x}
        for block in self.blocks:
            x = x + block(x, losses, seen=seen)
        first, second, third = losses
        out: torch.Tensor = (
            x * (first + 2 * second + seen["number"] * third)[:, None, None] + seen["last"]
        )
        return out


class InPlace(_Embedded):
    """Modules that change what they are given, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(WIDTH, WIDTH), Adds(), nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH),
                nn.Dropout(0.2, inplace=True),
            )
            for _ in range(2)
        )  # fmt: skip

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x).sin() + torch.tanh(x) * x
        return x


class Adds(nn.Module):
    """Adds one to its input, in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x += 1
        x *= 2
        return x


class Parts(_Embedded):
    """Called by two methods from the loop, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention() for _ in range(2))

    def begin(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is embedded, and scores of it."""
        x = self.embed(tokens)
        return x, self.head(x.mean(1))

    def combine(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Use each several times."""
        x = torch.tanh(a) * b + b * c.sin() + c * a
        for block in self.blocks:
            x = x + block(x, b, a)
        return x


def by_two_methods(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return scores of `Parts`."""
    x, scores = model.begin(tokens)
    y = model.combine(x, x, torch.tanh(x)) + torch.cos(x) * x
    out: torch.Tensor = scores + y.mean(1)[:, :CLASSES]
    return out


CALLS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {"Parts": by_two_methods}
"""How the loop calls a model, where not as a whole."""
OPTIONS: dict[str, dict[str, Any]] = {"Recomputed": {"checkpoint_blocks": True}}
"""What `run.prepare` is given for a model."""
