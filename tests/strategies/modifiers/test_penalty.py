import pytest
import torch

from strategies import EMA, ConfigError, Penalty


def test_the_gradient_is_that_of_the_penalty_in_the_mean_loss() -> None:
    penalty = Penalty(l1=0.3, l2=0.2)
    weight = torch.tensor([1.5, -2.0, 0.0], requires_grad=True)
    (0.3 * weight.abs().sum() + 0.2 * weight.square().sum()).backward()
    # The summed gradient of 8 samples; the mean is taken after the penalty was added.
    grad = torch.full((3,), 16.0)
    penalty.add_gradients([(grad, weight)], divisor=8.0)
    torch.testing.assert_close(grad / 8.0, 2.0 + weight.grad)


def test_only_what_the_patterns_name() -> None:
    penalty = Penalty(l2=0.1, names=("*.weight", "scale"))
    names = ("a.weight", "a.bias", "scale")
    assert [penalty.covers(n) for n in names] == [True, False, True]


def test_numbers_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="l1=-1"):
        Penalty(l1=-1)
    for decay in (1.0, -0.1):
        with pytest.raises(ConfigError, match=f"decay={decay}"):
            EMA(decay=decay)


def test_an_average_does_not_keep_an_optimizer_from_beginning() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    ema = EMA(decay=0.5)
    values = []
    for _ in range(3):
        parameter.grad = torch.ones(2)
        optimizer.step()
        ema.update(optimizer, [parameter])
        values.append(parameter.detach().clone())
    expected = 0.5 * (0.5 * values[0] + 0.5 * values[1]) + 0.5 * values[2]
    torch.testing.assert_close(optimizer.state[parameter]["ema"], expected)
