"""Who owns what under ZeRO, and what is refused, with what DeepSpeed has only by its names."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from strategies import ConfigError, Ranks
from strategies.parallel.gradients.partition_sums import Cut
from strategies.parallel.zero.exact_sums import ExactSums, _cuts
from strategies.parallel.zero.internals import Piece, Stage12

RANKS = Ranks(rank=0, world_size=1, device=torch.device("cpu"), host_group=cast(Any, None))


@pytest.mark.parametrize(
    ("begin", "numel", "found"),
    [
        (0, 4, [(0, 0, 4)]),
        (3, 6, [(0, 0, 2), (1, 2, 6)]),
        (4, 8, [(0, 0, 1), (1, 1, 6), (2, 6, 8)]),
        (10, 3, [(2, 0, 3)]),
    ],
)
def test_a_parameter_is_cut_where_the_ranks_parts_meet(
    begin: int, numel: int, found: list[tuple[int, int, int]]
) -> None:
    bounds = [(0, 5), (5, 10), (10, 15)]
    expected = [Cut(rank=rank, start=start, end=end) for rank, start, end in found]
    assert _cuts(bounds, begin, numel) == expected


class OnePart:
    """Stage 2 on one rank: two parameters, and padding before each."""

    def __init__(self) -> None:
        self.weights = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3))]
        self.masters = torch.zeros(10)
        self.single_partition_of_fp32_groups = [self.masters]
        self.round_robin_bit16_groups = [self.weights]
        self.round_robin_bit16_offsets = [[1, 6]]
        self.bit16_groups_flat = [torch.zeros(10)]
        self.param_names = dict(zip(self.weights, ("a", "b"), strict=True))
        self.averaged_gradients: dict[int, Any] = {}

    def process_gradients(self, parameter: Any, group: int) -> None:
        raise AssertionError("DeepSpeed's own sums")

    def independent_gradient_partition_epilogue(self) -> None:
        raise AssertionError("DeepSpeed's own sums")

    def pieces(self) -> list[Piece]:
        return [
            Piece(fqn=name, start=0, end=w.numel(), buffer=self.masters, group=0, offset=offset)
            for name, w, offset in zip("ab", self.weights, (1, 6), strict=True)
        ]


def sums_of(zero: OnePart, monkeypatch: pytest.MonkeyPatch) -> ExactSums:
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 1)
    layout = cast(Stage12, SimpleNamespace(pieces=zero.pieces))
    return ExactSums(zero, layout, {"a": None, "b": None}, RANKS, version="1.2.3")


def test_totals_go_where_the_step_looks_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = OnePart()
    sums = sums_of(zero, monkeypatch)
    sums.begin({}, 2)
    for value in (1.0, 2.0):
        for weight in zero.weights[::-1]:
            weight.grad = torch.full_like(weight, value)
            zero.process_gradients(weight, 0)
            assert weight.grad is None
        zero.independent_gradient_partition_epilogue()
        sums.finish()
    sums.ask()
    sums.put()
    assert sums.agree() == ()
    parts = zero.averaged_gradients[0]
    assert [len(part) for part in parts] == [1, 4, 1, 3, 1]
    assert torch.cat(parts).tolist() == [0, 3, 3, 3, 3, 0, 3, 3, 3, 0]


def test_the_share_of_a_parameter_is_not_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = OnePart()
    sums_of(zero, monkeypatch).begin({}, 1)
    share = nn.Parameter(torch.zeros(1))
    share.grad = torch.ones(1)
    zero.weights[1].data = share.data
    zero.weights[1].grad = share.grad
    with pytest.raises(RuntimeError, match="gradients whose size is not same as the params"):
        zero.process_gradients(zero.weights[1], 0)


def test_a_deepspeed_without_what_is_replaced_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(OnePart, "process_gradients")
    with pytest.raises(ConfigError, match=r"process_gradients of DeepSpeed.*1.2.3 does not have"):
        sums_of(OnePart(), monkeypatch)
