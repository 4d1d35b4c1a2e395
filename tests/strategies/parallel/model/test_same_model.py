"""What counts as the same model on all ranks."""

import pytest
import torch
from torch import nn

from strategies.parallel.model.same_model import difference, signature


def net(seed: int = 0, width: int = 16) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def with_value(value: float) -> nn.Module:
    model = nn.Module()
    model.register_buffer("mask", torch.full((4,), value))
    return model


@pytest.mark.parametrize(
    ("first", "own", "what"),
    [
        (net(), net(), None),
        (net(), net(seed=1), "other values in 0.weight than rank 0"),
        (net(), net(width=17), "0.weight float32[17, 8], and rank 0 0.weight float32[16, 8]"),
        (net(), net().bfloat16(), "0.weight bfloat16[16, 8], and rank 0 0.weight float32[16, 8]"),
        (net(), nn.Sequential(*list(net())[:1]), None),
        (net().to("meta"), net(seed=1), None),
        (with_value(float("-inf")), with_value(float("-inf")), None),
        (with_value(float("nan")), with_value(1.0), None),
        (with_value(1.0), with_value(1.0 + 1e-6), None),
        (with_value(1.0), with_value(2.0), "other values in mask than rank 0"),
        (with_value(0.0), with_value(0.0), None),
    ],
)
def test_where_two_models_differ(first: nn.Module, own: nn.Module, what: str | None) -> None:
    if len(list(own.parameters())) < len(list(first.parameters())):
        what = "2 parameters and buffers, and rank 0 9"
    assert difference(signature(first), signature(own)) == what


def test_tensors_of_all_kinds_have_a_signature() -> None:
    model = nn.Module()
    for number, dtype in enumerate(
        (torch.bool, torch.int8, torch.int64, torch.float16, torch.float8_e4m3fn, torch.complex64)
    ):
        model.register_buffer(f"b{number}", torch.ones(3).to(dtype))
    model.register_buffer("nothing", torch.ones(0))
    model.register_buffer("sparse", torch.eye(2).to_sparse())
    sums = [one[3] for one in signature(model)]  # type: ignore[index]
    assert sums == [[3.0, 3.0]] * 6 + [[0.0, 0.0], None]
