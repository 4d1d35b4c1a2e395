"""Which buffers follow the number of ranks, from what the ranks saw of them in a step."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from strategies.collectives.process_group import process_groups
from strategies.modifiers.buffer_watch import (
    BufferWatch,
    Seen,
    judge,
    sentence,
    sentence_of_plain,
)


def seen(digest: str = "a", *, first: bool = False, later: bool = False, ordered: bool = False):
    return Seen(digest=digest, moved_first=first, moved_later=later, is_ordered=ordered)


@pytest.mark.parametrize(
    ("everyone", "follow", "open_"),
    [
        ([seen()], False, False),
        ([seen(), seen()], False, False),
        ([seen(first=True), seen(first=True)], False, True),  # a flag, or a counter: look again
        ([seen(first=True, later=True)], True, False),
        ([seen("a", first=True), seen("b", first=True)], True, False),
        ([seen(), seen("b", first=True)], True, False),
        ([seen(later=True, ordered=True)] * 2, False, False),
        ([seen(ordered=True), seen("b")], True, False),
    ],
)
def test_judge(everyone: list[Seen], follow: bool, open_: bool) -> None:
    found = judge([{"u": one} for one in everyone])
    assert found == (["u"] if follow else [], ["u"] if open_ else [])


def test_the_names_are_told_up_to_five() -> None:
    told = sentence([f"b{n}" for n in range(7)])
    assert told.startswith("the model's forward updates b0, b1, b2, b3, b4 and 2 more, ")


class Moves(nn.Module):
    def __init__(self, move: Callable[[nn.Module], None]) -> None:
        super().__init__()
        self.register_buffer("inner", torch.zeros(2))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.flag = nn.Module()
        self.flag.register_buffer("is_set", torch.zeros((), dtype=torch.bool))
        self._move = move

    def forward(self) -> None:
        self.cache += 1
        self.flag.is_set.fill_(value=True)  # type: ignore[operator,union-attr]
        self._move(self)


def in_place(model: nn.Module) -> None:
    model.inner.add_(1)  # type: ignore[operator,union-attr]


def in_data(model: nn.Module) -> None:
    model.inner.data.add_(1)  # type: ignore[operator,union-attr]


def anew(model: nn.Module) -> None:
    model.inner = model.inner + 1  # type: ignore[operator]


def nothing(model: nn.Module) -> None:
    pass


@pytest.mark.parametrize(
    ("move", "is_told"), [(in_place, True), (in_data, True), (anew, True), (nothing, False)]
)
@pytest.mark.parametrize("turns", [1, 2])
def test_it_is_found_however_it_moves(
    move: Callable[[nn.Module], None], is_told: bool, turns: int
) -> None:
    model = Moves(move)
    wrapped = nn.Sequential(model)
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        watch = BufferWatch(wrapped, ranks, {"inner", "flag.is_set"}, is_ordered=lambda *_: False)
        told = []
        for step in range(3):
            watch.begin_step()
            for _ in range(turns):
                model()
                watch.end_micro_batch()
            found = watch.end_step()
            told += [(step, sentence([one]).split(",")[0]) for one in found.follow]
            if step == 0 and is_told:
                assert (id(model), "inner") in found.moved
    # With one forward a step the second step tells a counter from a flag.
    assert told == ([(2 - turns, "the model's forward updates inner")] if is_told else [])
    assert not watch._open


class Keeps(nn.Module):
    """Tensors as plain attributes: constants, what is made anew, and what is carried on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.table = torch.arange(2.0)
        self.filled = torch.zeros(2)
        self.average = torch.zeros(2)
        self.count = torch.tensor(0)
        self.weight_now = torch.zeros(2)
        self.attention: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.filled = torch.ones(2)
        self.average = 0.9 * self.average + x.mean(0)
        self.count += 1
        self.weight_now = self.linear.weight.sum(0)  # as the older spectral_norm keeps a weight
        self.attention = x
        out: torch.Tensor = self.linear(x - self.average) * self.table
        return out


def test_plain_attributes_that_a_forward_carries_on_are_named() -> None:
    model = Keeps()
    with process_groups(rank=0, local_rank=0, world_size=1) as ranks:
        watch = BufferWatch(nn.Sequential(model), ranks, (), is_ordered=lambda *_: False)
        told: list[str] = []
        for _ in range(3):
            watch.begin_step()
            for turn in range(2):
                model(torch.ones(3, 2) * turn)
                watch.end_micro_batch()
            found = watch.end_step()
            assert not found.moved
            assert not found.follow
            told += found.plain
    assert told == ["0.average", "0.count"]
    assert sentence_of_plain(told).startswith(
        "the model's forward updates 0.average, 0.count, kept as a plain attribute and not as a"
    )
