"""Where two runs part: losses by step, tensors by step and name."""

import math
from collections.abc import Mapping

import pytest

from launcher.commands.trials.compare import (
    Apart,
    Comparison,
    compare_pure,
    distance,
    relative,
    worst,
)


def compared(
    left: Mapping[int, float],
    right: Mapping[int, float],
    tensors: Mapping[int, Mapping[str, float]],
) -> Comparison:
    apart = {step: Apart(found=found) for step, found in tensors.items()}
    return compare_pure(left, right, sorted(apart), apart.__getitem__, tolerance=1e-6)


def test_rounding_is_equal() -> None:
    found = compared({1: 2.0, 2: 1.0}, {1: 2.0 + 1e-8, 2: 1.0}, {1: {"fp32/a": 3e-8}, 2: {}})
    assert found.is_equal
    assert found.parameters == 3e-8
    assert found.num_steps == 2


def test_the_first_step_and_its_worst_weight_are_named() -> None:
    tensors = {
        1: {"fp32/a": 1e-7},
        2: {"fp32/a": 1e-3, "fp32/b": 1e-2, "exp_avg/b": 5.0, "buffer/c": 7.0},
        3: {"fp32/a": 1.0},
    }
    found = compared({1: 2.0, 2: 1.0}, {1: 2.0, 2: 1.5}, tensors)
    assert (found.step, found.tensor, found.loss_step) == (2, "fp32/b", 2)
    assert found.parameters == 7.0
    assert found.loss == pytest.approx(1 / 3)
    assert not found.is_equal


def test_the_state_of_an_optimizer_alone_is_no_difference_of_parameters() -> None:
    assert compared({}, {}, {1: {"exp_avg/a": 1.0}}).is_equal


def test_nothing_to_compare_is_not_equal() -> None:
    assert not compared({1: 1.0}, {2: 1.0}, {}).is_equal


def test_a_buffer_is_named_where_no_weight_differs() -> None:
    assert worst({"buffer/n": 1.0, "exp_avg/w": 9.0}) == "buffer/n"


@pytest.mark.parametrize(
    ("left", "right", "apart"),
    [
        (1.0, 1.0, 0.0),
        (math.nan, math.nan, 0.0),
        (math.nan, 1.0, math.inf),
        (math.inf, math.inf, 0.0),
        (math.inf, 1.0, math.inf),
    ],
)
def test_distance(left: float, right: float, apart: float) -> None:
    assert distance(left, right) == apart


def test_large_numbers_are_compared_in_units_of_their_size() -> None:
    assert relative(2000.0, 2000.001) == pytest.approx(5e-7)
    assert relative(0.5, 0.25) == 0.25
    assert relative(math.inf, 1.0) == math.inf


def test_noise_and_the_buffers_that_follow_it_are_left_out_while_the_losses_are_equal() -> None:
    apart = {
        1: Apart(found={"fp32/bias": 0.0}, noise={"fp32/bias": 1e-2}),
        2: Apart(found={"buffer/mean": 2e-2}, noise={"fp32/bias": 1e-2}),
    }
    steps, equal, other = [1, 2], {1: 1.0, 2: 1.0}, {1: 1.0, 2: 1.1}
    found = compare_pure(equal, equal, steps, apart.__getitem__, tolerance=1e-6)
    assert found.is_equal
    assert (found.parameters, found.noise) == (0.0, 2e-2)
    found = compare_pure(equal, other, steps, apart.__getitem__, tolerance=1e-6)
    assert (found.step, found.tensor) == (2, "buffer/mean")


def test_buffers_count_where_no_weight_is_noise() -> None:
    found = compared({1: 1.0}, {1: 1.0}, {1: {"buffer/mean": 1e-2}})
    assert (found.step, found.tensor) == (1, "buffer/mean")
