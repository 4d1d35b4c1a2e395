"""Which tensors go into an exported file."""

import pytest

from checkpointing import TensorSpec
from checkpointing.exporting.plan import WEIGHT_KEYS, choose_tensors


def spec(fqn: str, key: str) -> TensorSpec:
    return TensorSpec(fqn=fqn, key=key, shape=(2,), dtype="F32")


SPECS = [
    spec("a", "fp32"),
    spec("a", "ema"),
    spec("a", "exp_avg"),
    spec("b", "fp32"),
    spec("c", "buffer"),
]


def test_the_weights_and_nothing_of_the_optimizer() -> None:
    chosen = choose_tensors(SPECS, WEIGHT_KEYS)
    assert [(s.fqn, s.key) for s in chosen] == [("a", "fp32"), ("b", "fp32"), ("c", "buffer")]


def test_the_average_where_there_is_one_and_the_weight_elsewhere() -> None:
    chosen = choose_tensors(SPECS, WEIGHT_KEYS, preferred="ema")
    assert [(s.fqn, s.key) for s in chosen] == [("a", "ema"), ("b", "fp32"), ("c", "buffer")]


def test_an_average_that_is_nowhere() -> None:
    with pytest.raises(ValueError, match="no tensor with the key ema"):
        choose_tensors(SPECS[3:], WEIGHT_KEYS, preferred="ema")
