import pytest

from checkpointing import TensorSpec
from launcher.training.context import RankPlacement
from launcher.training.reporting.start_table import (
    batch_text,
    data_text,
    interval_text,
    model_text,
    places_text,
    start_table,
)
from strategies import BatchPlan


def plan(**changes):
    values = {"num_samples": 1258, "global_batch": 96, "micro_batch": 32, "epochs": 60, "seed": 0}
    return BatchPlan(**{**values, **changes})


@pytest.mark.parametrize(
    ("places", "text"),
    [
        ([("a", "cpu")], "rank 0 on a (cpu)"),
        ([("a", "cpu"), ("a", "cpu")], "2 ranks: 0-1 on a (cpu)"),
        (
            [("a", "H100 (cuda:0)"), ("a", "H100 (cuda:1)"), ("b", "H100 (cuda:0)")],
            "3 ranks: 0-1 on a (H100 (cuda:0), H100 (cuda:1)); 2 on b (H100 (cuda:0))",
        ),
    ],
)
def test_what_runs_where(places, text):
    assert places_text([RankPlacement(host=h, device=d) for h, d in places]) == text


@pytest.mark.parametrize(
    ("world_size", "micro_batch", "text"),
    [
        (1, 96, "96 samples per step = 1 micro-batch of 96; 1 turn per rank"),
        (3, 32, "96 samples per step = 3 micro-batches of 32; 1 turn per rank"),
        (
            2,
            32,
            "96 samples per step = 3 micro-batches of 32; 2 turns per rank "
            "(1 of 4 turns are padding with weight 0)",
        ),
    ],
)
def test_the_arithmetic_of_a_batch(world_size, micro_batch, text):
    assert batch_text(plan(micro_batch=micro_batch), world_size) == text


def test_how_many_steps_the_data_make():
    assert data_text(plan()) == "1258 samples: 14 steps per epoch, 60 epochs, 840 steps in total"
    assert data_text(plan(num_samples=96, epochs=1)) == (
        "96 samples: 1 step per epoch, 1 epoch, 1 step in total"
    )


def test_how_large_the_model_is():
    def spec(*shape):
        return TensorSpec(fqn="x", key="fp32", shape=shape, dtype="F32")

    assert model_text([spec(1000, 64), spec()], []) == "64,001 trainable parameters"
    assert model_text([spec(3)], [spec(2, 2)]) == "3 trainable parameters, 4 frozen"


def test_rows_are_aligned_and_empty_ones_left_out():
    assert start_table([("a", "1"), ("none", ""), ("long", "2")]) == "  a     1\n  long  2"


@pytest.mark.parametrize(
    ("text", "told"),
    [("1 epoch", "epoch"), ("1 steps", "step"), ("10 steps", "10 steps"), ("5 min", "5 min")],
)
def test_how_often(text, told):
    assert interval_text(text) == told
