import math

import pytest
import torch

from strategies.parallel.clipping import combined_scale, sum_of_squares


def test_it_agrees_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(n, generator=generator) for n in (3, 17, 64)]
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad / 32
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.1)
    squares = float(sum_of_squares(grads, torch.device("cpu")))
    scale, ours, finite = combined_scale(squares, 32.0, 0.1)
    assert finite
    assert ours == pytest.approx(float(norm), rel=1e-6)
    for parameter, grad in zip(parameters, grads, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(grad * (1.0 / scale), parameter.grad)


def test_small_gradients_are_not_clipped() -> None:
    assert combined_scale(4.0, 2.0, 10.0) == (2.0, 1.0, True)
    assert combined_scale(4.0, 2.0, None) == (2.0, 1.0, True)


@pytest.mark.parametrize("squares", [math.inf, math.nan])
def test_a_norm_that_is_not_finite_is_told(squares: float) -> None:
    assert combined_scale(squares, 2.0, 1.0)[2] is False


def test_the_sum_does_not_overflow_or_lose_bits() -> None:
    large = torch.full((1000,), 3e19)
    assert float(sum_of_squares([large], torch.device("cpu"))) == pytest.approx(9e41)
    assert float(sum_of_squares([], torch.device("cpu"))) == 0.0
