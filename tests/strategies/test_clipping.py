import math

import pytest
import torch

from strategies.parallel.gradients import grad_norm
from strategies.parallel.gradients.grad_norm import combined_scale, own_part, sum_of_squares


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


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6, 1e-16, 1e18, 1e21])
@pytest.mark.parametrize(
    "sizes", [(1,), (65535,), (65536,), (65537, 7), (200_001, 3000, 50), (3000,) * 50]
)
def test_the_sum_is_as_good_as_float64(sizes: tuple[int, ...], scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(n, generator=generator) * scale for n in sizes]
    exact = sum(float(grad.double().square().sum()) for grad in grads)
    found = float(sum_of_squares(grads, torch.device("cpu")))
    assert found == pytest.approx(exact, rel=1e-14)


def test_gradients_may_be_of_any_shape_dtype_and_stride() -> None:
    grads = [
        torch.randn(64, 48).t(),
        torch.randn(3000, dtype=torch.float64),
        torch.randn(1500).bfloat16(),
        torch.randn(2, 700, 3),
        torch.randn(()),
        torch.randn(0),
    ]
    exact = sum(float(grad.double().square().sum()) for grad in grads)
    assert float(sum_of_squares(grads, torch.device("cpu"))) == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("numel", [0, 1, 2, 7, 96, 1001])
@pytest.mark.parametrize("world_size", [1, 2, 3, 16])
def test_the_parts_of_all_ranks_are_each_element_once(numel: int, world_size: int) -> None:
    flat = torch.arange(numel)
    parts = [own_part(flat, rank, world_size) for rank in range(world_size)]
    assert torch.cat(parts).equal(flat)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_gradients_of_zero_have_the_norm_zero() -> None:
    assert float(sum_of_squares([torch.zeros(5000)], torch.device("cpu"))) == 0.0


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_one_element_that_is_not_finite_is_seen(value: float) -> None:
    grad = torch.randn(5000)
    grad[4321] = value
    assert not math.isfinite(float(sum_of_squares([grad], torch.device("cpu"))))


def test_the_host_works_while_the_device_computes_the_norm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    class Late:
        def __init__(self, value: torch.Tensor) -> None:
            order.append("asked")
            self.value = value

        def __float__(self) -> float:
            order.append("waited")
            return float(self.value)

    monkeypatch.setattr(grad_norm, "LateNumber", Late)
    assert grad_norm.number_of(torch.tensor(3.0), lambda: order.append("worked")) == 3.0
    assert order == ["asked", "worked", "waited"]
    assert grad_norm.number_of(torch.tensor(4.0), None) == 4.0
    assert len(order) == 3
