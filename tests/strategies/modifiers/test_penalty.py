from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from strategies import EMA, ConfigError, Penalty
from strategies.modifiers import penalty


def test_the_gradient_is_that_of_the_penalty_in_the_mean_loss() -> None:
    asked = Penalty(l1=0.3, l2=0.2)
    weight = torch.tensor([1.5, -2.0, 0.0], requires_grad=True)
    (0.3 * weight.abs().sum() + 0.2 * weight.square().sum()).backward()
    # The summed gradient of 8 samples; the mean is taken after the penalty was added.
    grad = torch.full((3,), 16.0)
    asked.add_gradients([(grad, weight)], divisor=8.0)
    torch.testing.assert_close(grad / 8.0, 2.0 + weight.grad)


def test_only_what_the_patterns_name() -> None:
    asked = Penalty(l2=0.1, names=("*.weight", "scale"))
    names = ("a.weight", "a.bias", "scale")
    assert [asked.covers(n) for n in names] == [True, False, True]


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


class Launches(TorchDispatchMode):
    """Counts what would start kernels on a GPU, by name; views start none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_many_tensors_are_few_launches() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(300)]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    ema = EMA(decay=0.5)
    ema.update(optimizer, parameters)
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
    with Launches() as launches:
        ema.update(optimizer, parameters)
        Penalty(l1=0.1, l2=0.1).add_gradients([], divisor=1.0)
    assert launches.found == {"_foreach_lerp_": 1}
    assert all(float(optimizer.state[p]["ema"][0]) == 0.5 for p in parameters)
    grads = [(torch.zeros(2), p) for p in parameters]
    with Launches() as launches:
        Penalty(l1=0.1, l2=0.1).add_gradients(grads, divisor=1.0)
    assert launches.found == {"_foreach_sign": 1, "_foreach_add_": 2}


def test_signs_of_large_weights_are_not_there_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(penalty, "_ELEMENTS_AT_ONCE", 5)
    weights = [torch.full((3,), -2.0), torch.full((2,), 1.0), torch.full((9,), 3.0)]
    pairs = [(torch.zeros_like(w), w) for w in weights]
    with Launches() as launches:
        Penalty(l1=0.5).add_gradients(pairs, divisor=2.0)
    assert launches.found["_foreach_sign"] == 2
    assert [float(grad[0]) for grad, _ in pairs] == [-1.0, 1.0, 1.0]
