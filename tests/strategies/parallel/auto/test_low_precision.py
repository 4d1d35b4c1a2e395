"""What torch.autocast casts on a GPU is cast alike on tensors without memory.

torch's own rules for CUDA are followed by fake tensors without a GPU, as long as nothing is to be
differentiated: they are the truth here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from strategies import Blueprint, BuildOptions, Ranks, precision_for
from strategies.parallel.auto.low_precision import AutocastAsOnGPU
from strategies.parallel.auto.measure import measure_model

Operation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Any]
"""(x, w, h) of (4, 8) in fp32, (8, 8) in fp32, (4, 8) in bf16."""


def classes(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(4, dtype=torch.int64, device=x.device)


OPERATIONS: dict[str, Operation] = {
    "linear": lambda x, w, h: F.linear(x, w),
    "linear of bf16": lambda x, w, h: F.linear(h, w),
    "matmul": lambda x, w, h: torch.matmul(x, w),
    "@": lambda x, w, h: x @ w,
    "mm": lambda x, w, h: x.mm(w),
    "bmm": lambda x, w, h: torch.bmm(x.unsqueeze(0), w.unsqueeze(0)),
    "addmm": lambda x, w, h: torch.addmm(x, x, w),
    "einsum": lambda x, w, h: torch.einsum("ij,jk->ik", x, w),
    "prelu": lambda x, w, h: F.prelu(x, x.new_empty(1)),
    "embedding": lambda x, w, h: F.embedding(classes(x), w),
    "layer_norm": lambda x, w, h: F.layer_norm(h, (8,)),
    "group_norm": lambda x, w, h: F.group_norm(h, 2),
    "rms_norm": lambda x, w, h: F.rms_norm(h, (8,)),
    "softmax": lambda x, w, h: h.softmax(-1),
    "F.softmax": lambda x, w, h: F.softmax(h, dim=-1),
    "log_softmax": lambda x, w, h: torch.log_softmax(h, -1),
    "softmax in bf16": lambda x, w, h: h.softmax(-1, dtype=torch.bfloat16),
    "sum": lambda x, w, h: h.sum(),
    "mean": lambda x, w, h: h.mean(),
    "cumsum": lambda x, w, h: h.cumsum(0),
    "norm": lambda x, w, h: h.norm(),
    "exp": lambda x, w, h: h.exp(),
    "pow": lambda x, w, h: torch.pow(h, 3.0),
    "**": lambda x, w, h: h**2,
    "rsqrt": lambda x, w, h: torch.rsqrt(h),
    "gelu": lambda x, w, h: F.gelu(h),
    "silu": lambda x, w, h: F.silu(h),
    "relu": lambda x, w, h: F.relu(h),
    "tanh": lambda x, w, h: torch.tanh(h),
    "sigmoid": lambda x, w, h: torch.sigmoid(h),
    "+": lambda x, w, h: x + h,
    "* number": lambda x, w, h: h * 2.0,
    "cat": lambda x, w, h: torch.cat([x, h]),
    "cross_entropy": lambda x, w, h: F.cross_entropy(h, classes(h)),
    "mse_loss": lambda x, w, h: F.mse_loss(h, x),
    "dropout": lambda x, w, h: F.dropout(h, 0.5),
    "double": lambda x, w, h: x.double() @ w.double(),
}


@contextmanager
def autocast_of_cuda() -> Iterator[None]:
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
        torch.clear_autocast_cache()


def given(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, w = torch.empty(4, 8, device=device), torch.empty(8, 8, device=device)
    return x, w, x.bfloat16()


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_has_the_dtype_that_it_has_on_a_gpu(name: str) -> None:
    operation = OPERATIONS[name]
    with FakeTensorMode(), torch.no_grad(), autocast_of_cuda():
        expected = operation(*given("cuda")).dtype
    x, w, h = given("meta")
    with AutocastAsOnGPU(torch.bfloat16, nn.Linear(2, 2, device="meta")):
        assert operation(x, w, h).dtype == expected


def test_weights_are_cast_once_and_their_gradients_are_of_the_masters() -> None:
    model = nn.Linear(8, 8, device="meta")
    casts = AutocastAsOnGPU(torch.bfloat16, model)
    with casts:
        first, second = model(torch.empty(4, 8, device="meta")), model(given("meta")[2])
    assert first.dtype == second.dtype == torch.bfloat16
    (first.sum() + second.sum()).backward()
    assert model.weight.grad is not None
    assert model.weight.grad.dtype == torch.float32


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return moved


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(100, 64), nn.Linear(64, 100)
        self.blocks = nn.ModuleList(Block() for _ in range(4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(x)
        return logits


def sizes(precision: str, device: str = "cuda", **options: Any) -> Any:
    blueprint = Blueprint(
        model=Model,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        precision=precision_for(precision, "cuda"),
        max_grad_norm=None,
        seed=1,
        ranks=Ranks(rank=0, world_size=8, device=torch.device(device), host_group=None),  # type: ignore[arg-type]
        options=BuildOptions(**options),
    )
    tokens = torch.zeros(32, 100, dtype=torch.int64)

    def forward(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(batch).flatten(0, 1), batch.flatten(), reduction="sum")

    return measure_model(blueprint, tokens, forward)


def test_autocast_holds_what_stays_in_fp32() -> None:
    """By hand, a position: of each block its input in fp32 for the norm, of which the two means
    are little; in bf16 what goes into the linear layers and the gelu; then the loss."""
    found = sizes("bf16")
    positions = 32 * 100
    kept = 4 * (4 * 64 + 2 * 64 + 2 * 256 + 2 * 256) + 2 * 64  # blocks, input of the head
    # Logits in bf16 and fp32, their log-softmax, and of that the gradient.
    loss = 100 * (2 + 4 + 4 + 4)
    assert found.autocast_bytes == pytest.approx(positions * (kept + loss), rel=0.15)
    assert found.activation_bytes < found.autocast_bytes
    assert sizes("fp32").autocast_bytes is None
    assert sizes("bf16", "cpu").autocast_bytes is None


def test_blocks_that_are_computed_again_are_computed_in_the_same_precision() -> None:
    found, kept = sizes("bf16", checkpoint_blocks=True), sizes("bf16")
    assert found.autocast_bytes is not None
    assert found.autocast_bytes < kept.autocast_bytes


class Caching(nn.Module):
    """Adds to a cache that is empty at first, as attention of transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys = torch.tensor([], dtype=x.dtype, device=x.device)
        found: torch.Tensor = self.layer(torch.cat([keys, x], dim=-2))
        return found


def test_what_a_model_makes_on_its_device_has_no_memory_either() -> None:
    blueprint = Blueprint(
        model=Caching,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        precision=precision_for("fp32", "cuda"),
        max_grad_norm=None,
        seed=1,
        ranks=Ranks(rank=0, world_size=8, device=torch.device("cuda"), host_group=None),  # type: ignore[arg-type]
        options=BuildOptions(),
    )
    assert measure_model(blueprint, torch.zeros(4, 8), None).activation_bytes is not None
