"""What a script writes into weights that are computed anew is refused, before it is lost."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from strategies import ConfigError
from strategies.parallel.zero.internals import Piece, Stage3, Stage12
from strategies.parallel.zero.weights.written import COMPARED_STEPS, WrittenWeights

sys.path.insert(0, str(Path(__file__).parents[4] / "integration" / "workers"))
two_places: Any = importlib.import_module("two_places")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.teacher = nn.Parameter(torch.ones(2), requires_grad=False)
        self.counted = nn.Buffer(torch.zeros(()))


class Layout:
    """One flat master, of all but the first two elements of the critic's weight."""

    def __init__(self, net: Net) -> None:
        self.flat = torch.cat([net.critic.weight.detach().flatten()[2:], net.critic.bias.detach()])

    def pieces(self) -> Iterator[Piece]:
        yield Piece(fqn="critic.weight", start=2, end=9, buffer=self.flat, group=0, offset=0)
        yield Piece(fqn="critic.bias", start=0, end=3, buffer=self.flat, group=0, offset=7)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def written(net: Net) -> WrittenWeights:
    trained = [name for name, one in net.named_parameters() if one.requires_grad]
    return WrittenWeights(cast(Stage12, Layout(net)), net, trained, "zero2")


def clamped(net: Net) -> None:
    with torch.no_grad():
        net.scale.clamp_(0, 100)  # changes nothing yet


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("scale", clamped),
        ("scale", lambda net: nn.init.constant_(net.scale, 1.0)),
        ("critic.weight", lambda net: net.critic.reset_parameters()),
        ("critic.weight", lambda net: net.critic.weight.data.clamp_(-0.01, 0.01)),
        ("critic.bias", lambda net: net.critic.bias.data.add_(1e-7)),
    ],
)
def test_a_weight_that_was_written_to_is_named(
    name: str, write: Callable[[Net], Any], net: Net, written: WrittenWeights
) -> None:
    written.require_none()
    written.accept()
    write(net)
    with pytest.raises(
        ConfigError, match=f"^{name} was written to after a step, and strategy=zero2"
    ):
        written.require_none()


def test_what_is_not_trained_is_the_scripts(net: Net, written: WrittenWeights) -> None:
    with torch.no_grad():
        net.teacher.mul_(0.9)
        net.counted.add_(1)
    net.teacher.data.add_(1)
    net.critic(torch.ones(1, 3)).sum().backward()
    written.require_none()


class Shares(Stage3):
    """Stage 3, whose small weights every rank holds whole beside its shares."""

    def __init__(self, net: Net) -> None:
        self._shares = {id(p): p.detach().clone().flatten() for p in net.parameters()}
        for parameter in net.parameters():
            parameter.ds_persist = True  # type: ignore[attr-defined]
            parameter.ds_status = SimpleNamespace(name="AVAILABLE")  # type: ignore[attr-defined]

    def pieces(self) -> Iterator[Piece]:
        yield from ()

    def frozen_range(self, parameter: Any) -> tuple[int, int, torch.Tensor]:
        share = self._shares[id(parameter)]
        return 0, share.numel(), share


@pytest.mark.parametrize(
    "write",
    [
        lambda net: torch.no_grad()(net.teacher.mul_)(0.9),
        lambda net: net.teacher.data.add_(1),
    ],
)
def test_in_stage_3_what_is_frozen_is_taken_anew_too(write: Callable[[Net], Any], net: Net) -> None:
    written = WrittenWeights(Shares(net), net, (), "zero3")
    written.require_none()
    write(net)
    with pytest.raises(ConfigError, match=r"^teacher was written to after a step, and strategy=z"):
        written.require_none()


def test_shares_may_be_on_the_host_and_weights_on_a_gpu() -> None:
    """With offload; a GPU is pretended, which refuses what meets nowhere."""
    with two_places.TwoPlaces():
        net = Net()
        shares = Shares(net)
        for parameter in net.parameters():
            parameter.data = parameter.data.to("cuda")
        written = WrittenWeights(shares, net, (), "zero3")
        written.require_none()
        net.teacher.data.add_(1)
        with pytest.raises(ConfigError, match=r"^teacher was written to"):
            written.require_none()


def test_what_the_engine_sets_is_taken(net: Net, written: WrittenWeights) -> None:
    clamped(net)
    written.accept()
    written.require_none()


def test_values_are_compared_in_the_first_steps(net: Net, written: WrittenWeights) -> None:
    for _ in range(COMPARED_STEPS):
        written.require_none()
    net.critic.weight.data.clamp_(-0.01, 0.01)
    written.require_none()
