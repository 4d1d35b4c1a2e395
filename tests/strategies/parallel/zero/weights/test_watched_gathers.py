"""What a forward gathers under stage 3, as turns that the ranks agree on."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from strategies.parallel.zero.weights.watched_gathers import watch_gathers


class Net(nn.Module):
    """Calls one layer, reads the weight of another, and calls one that is to be kept whole."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read, self.whole = (nn.Linear(2, 2, bias=False) for _ in range(3))
        for name, one in self.named_parameters():
            parameter: Any = one
            parameter.ds_persist = name.startswith("whole")
            parameter.ds_status = SimpleNamespace(name="NOT_AVAILABLE")
            parameter.all_gather = lambda *args: args

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight: Any = self.read.weight
        weight.all_gather()  # as DeepSpeed does at the read
        out: torch.Tensor = self.whole(nn.functional.linear(self.called(x), weight))
        return out


def test_calls_and_reads_of_a_forward_are_turns() -> None:
    taken: list[str] = []
    agreed: Any = SimpleNamespace(
        call=lambda: taken.append("begin"),
        take=taken.append,
        returned=lambda: taken.append("end"),
    )
    net: Any = Net()
    watch_gathers(net, agreed)
    assert net.read.weight.all_gather() == ()
    net.called(torch.ones(1, 2))
    assert taken == []  # outside of a forward
    net(torch.ones(1, 2))
    reads = "reads read.weight without a call of read"
    assert taken == ["begin", reads, "calls called", "calls whole", "end"]
    taken.clear()
    assert net.read.weight.all_gather([net.read.weight]) == ([net.read.weight],)
    assert taken == []


def test_an_evaluation_that_gathers_nothing_more_takes_no_turns() -> None:
    """As for another token: the ranks may call the model as often as each needs."""
    taken: list[str] = []
    agreed: Any = SimpleNamespace(
        call=lambda: taken.append("begin"), take=taken.append, returned=lambda: None
    )
    net: Any = Net()
    for parameter in net.parameters():
        parameter.ds_status.name = "AVAILABLE"
    watch_gathers(net, agreed)
    with torch.no_grad():
        net(torch.ones(1, 2))
    assert taken == []
    net(torch.ones(1, 2))
    assert taken == ["begin", "calls called", "calls whole"]
