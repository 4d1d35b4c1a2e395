"""What attention holds is counted as the kernel of the run's device has it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as imported

from strategies import Blueprint, BuildOptions, Ranks, precision_for
from strategies.parallel.auto.attention import attention_as_on, kernel_of
from strategies.parallel.auto.estimate import Wishes, choose
from strategies.parallel.auto.measure import measure_model
from strategies.parallel.auto.memory_model import ModelSizes, Spread

HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64
aten = torch.ops.aten


def on_meta(heads: int, head: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(2, heads, 128, head, device="meta", dtype=dtype, requires_grad=True)


@pytest.mark.parametrize(
    ("device_type", "dtype", "head", "heads", "has_mask", "dropout", "kernel"),
    [
        ("cuda", HALF, 64, 8, False, 0.0, "flash"),
        ("cuda", HALF, 64, 8, False, 0.1, "flash"),
        ("cuda", HALF, 64, 2, False, 0.0, "flash"),  # fewer heads of keys
        ("cuda", HALF, 64, 8, True, 0.0, "efficient"),
        ("cuda", HALF, 64, 2, True, 0.0, "math"),
        ("cuda", HALF, 512, 8, False, 0.0, "efficient"),
        ("cuda", HALF, 70, 8, True, 0.0, "math"),
        ("cuda", SINGLE, 64, 8, False, 0.0, "efficient"),
        ("cuda", DOUBLE, 64, 8, False, 0.0, "math"),
        ("cpu", SINGLE, 64, 8, True, 0.0, "flash"),
        ("cpu", HALF, 64, 8, False, 0.0, "flash"),
        ("cpu", SINGLE, 64, 8, False, 0.1, "math"),
    ],
)
def test_the_kernel_that_a_device_takes(
    device_type: str,
    dtype: torch.dtype,
    head: int,
    heads: int,
    has_mask: bool,
    dropout: float,
    kernel: str,
) -> None:
    query, key = on_meta(8, head, dtype), on_meta(heads, head, dtype)
    found = kernel_of(device_type, query, key, key, has_mask=has_mask, dropout=dropout)
    assert found == kernel


def test_what_is_ruled_out_is_not_taken() -> None:
    query = on_meta(8, 64, HALF)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert kernel_of("cuda", query, query, query, has_mask=False, dropout=0.0) == "math"


def test_tensors_with_memory_are_attended_as_ever() -> None:
    query = torch.randn(2, 3, 5, 8)
    expected = F.scaled_dot_product_attention(query, query, query)
    original = F.scaled_dot_product_attention
    with attention_as_on("cuda"):
        assert torch.equal(F.scaled_dot_product_attention(query, query, query), expected)
    assert F.scaled_dot_product_attention is original


def by_name(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def by_import(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return imported(q, k, v, None, 0.0, True)


def by_flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, False)[0]
    return result


class Block(nn.Module):
    def __init__(self, width: int, attend) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.attend = attend
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.first(x)).view(batch, length, 3, width // 64, 64)
        heads = self.attend(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.out(heads.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    def __init__(self, attend, *, width: int = 768, depth: int = 2) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.embed, self.head = nn.Embedding(256, width), nn.Linear(width, 256)
        self.blocks = nn.Sequential(*(Block(width, attend) for _ in range(depth)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.blocks(self.embed(tokens)))
        return logits


class Encoder(nn.Module):
    """torch's own, whose attention is called where no mode reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 768)
        self.layer = nn.TransformerEncoderLayer(768, 12, 3072, dropout=0.0, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.layer(self.embed(tokens))
        return hidden


def activation_bytes(model: nn.Module, device: str, precision: str = "bf16") -> int:
    blueprint = Blueprint(
        model=lambda: model,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        precision=precision_for(precision, "cpu"),
        max_grad_norm=None,
        seed=1,
        ranks=Ranks(rank=0, world_size=8, device=torch.device(device), host_group=None),  # type: ignore[arg-type]
        options=BuildOptions(),
    )
    batch = (torch.zeros(4, 1024, dtype=torch.int64),)
    sizes = measure_model(blueprint, batch, None)
    assert sizes.activation_bytes is not None
    return sizes.activation_bytes


def test_the_estimate_is_that_of_the_fused_kernel() -> None:
    with torch.device("meta"):
        truth = activation_bytes(Transformer(by_flash), "cuda")
        for attend in (by_name, by_import):
            assert abs(activation_bytes(Transformer(attend), "cuda") / truth - 1) < 0.15
        # On a CPU the fused kernel has the same form.
        assert abs(activation_bytes(Transformer(by_name), "cpu") / truth - 1) < 0.15
        scores = 4 * 12 * 1024 * 1024 * 2
        assert activation_bytes(Encoder(), "cuda") < truth
        assert scores < truth < 6 * scores  # so that the math path would be seen


def test_a_transformer_of_long_context_fits() -> None:
    """1.0B at context 4,096 in bf16 on 8 GPUs: 20 GiB of activations, by the math path 111."""
    with torch.device("meta"):
        two, three = (activation_bytes(Transformer(by_name, depth=d), "cuda") for d in (2, 3))
    # By layers of 768 to 20 of 2,048, and by 4,096 positions in place of 1,024.
    layer = (three - two) * 4 * 2048 // 768
    assert 15 * 2**30 < 20 * layer < 25 * 2**30
    sizes = _sizes_of_a_billion(activation_bytes=20 * layer)
    spread = Spread(ranks=8, shards=8, by_name=False)
    choice = choose(sizes, Wishes(able=("ddp", "fsdp")), spread, memory_bytes=78 * 2**30)
    assert choice.strategy == "ddp"
    assert "the simplest that fits" in choice.reason


def _sizes_of_a_billion(*, activation_bytes: int) -> ModelSizes:
    return ModelSizes(
        trainable=1_008_214_272,
        largest_parameter=2048 * 8192,
        frozen_bytes=0,
        buffer_bytes=0,
        optimizer_bytes=8 * 1_008_214_272,
        stepping_bytes=0,
        stepping_element_bytes=8,
        largest_block=50_358_272,
        root=1_050_624,
        compute_bytes=2,
        activation_bytes=activation_bytes,
        accumulates=True,
        on_host=False,
    )
