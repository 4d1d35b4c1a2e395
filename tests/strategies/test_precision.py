import pytest
import torch

from strategies.names import PRECISION_NAMES
from strategies.precision import precision_for


def test_every_name_has_a_policy() -> None:
    for name in PRECISION_NAMES:
        policy = precision_for(name, "cuda")
        assert policy.name == name
        assert policy.reduce_dtype == policy.output_dtype == torch.float32


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match='unknown precision "fp8"; choose from bf16, fp16, fp32'):
        precision_for("fp8", "cuda")


def test_fp16_is_refused_where_it_cannot_be_computed() -> None:
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        precision_for("fp16", "cpu")
