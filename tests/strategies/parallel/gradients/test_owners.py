"""What others have of what a rank owns is added to it, and no bit of it is lost."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from strategies import Ranks
from strategies.collectives.order_free import round_away_
from strategies.parallel.gradients import owners
from strategies.parallel.gradients.owners import add_of_others, rows_size_bytes
from strategies.parallel.gradients.partition_sums import Cut, PartitionSums

from .thread_ranks import as_ranks

LENGTHS = {1: (9,), 2: (7, 0), 3: (40, 3, 11), 4: (5, 5, 5, 5)}
UNIT = -20


def rows_of(rank: int, lengths: tuple[int, ...]) -> list[torch.Tensor]:
    """Numbers over many magnitudes, rounded as gradients are before they are summed."""
    generator = torch.Generator().manual_seed(rank)
    made = [
        (torch.randn(n, generator=generator) * torch.exp(4 * torch.randn(n, generator=generator)))
        for n in lengths
    ]
    rows = [one.double() for one in made]
    for row in rows:
        round_away_(row, UNIT)
    return rows


@pytest.mark.parametrize("world_size", LENGTHS)
@pytest.mark.parametrize("at_a_time", [1, 8, 1 << 20])
@pytest.mark.parametrize("is_in_place", [True, False])
@pytest.mark.parametrize("share_memory", [False, True])
def test_each_rank_gets_the_exact_sum_of_its_row(
    world_size: int,
    at_a_time: int,
    is_in_place: bool,
    share_memory: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owners, "_AT_A_TIME", at_a_time)
    lengths = LENGTHS[world_size]

    def rank_main(ranks: Ranks) -> torch.Tensor:
        rows = rows_of(ranks.rank, lengths)
        own = rows[ranks.rank] if is_in_place else rows[ranks.rank].clone()
        memory = ranks.reserved_memory(rows_size_bytes(max(lengths), world_size))
        assert (memory is not None) == (share_memory and world_size > 1)
        add_of_others(own, rows, memory)
        return own

    found = as_ranks(monkeypatch, world_size, rank_main, share_memory=share_memory)
    every = [rows_of(rank, lengths) for rank in range(world_size)]
    for rank, own in enumerate(found):
        assert torch.equal(own, torch.stack([rows[rank] for rows in every]).sum(0))


@pytest.mark.parametrize("groups", [[(0, 1), (2, 3)], [(0, 2), (1, 3)]])
def test_groups_of_neighbours_add_what_is_theirs(
    groups: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with replicas of shards on one host: all ranks meet, and read of their own group."""
    lengths = (40, 3)

    def rank_main(ranks: Ranks) -> torch.Tensor:
        own_group: Any = next(group for group in groups if ranks.rank in group)
        rows = rows_of(ranks.rank, lengths)
        own: torch.Tensor = rows[own_group.index(ranks.rank)]
        memory = ranks.reserved_memory(rows_size_bytes(max(lengths), len(lengths)))
        assert memory is not None
        add_of_others(own, rows, memory, own_group)
        return own

    monkeypatch.setattr(owners, "_AT_A_TIME", 16)
    monkeypatch.setattr(dist, "get_process_group_ranks", lambda group: list(group))
    found = as_ranks(monkeypatch, 4, rank_main, share_memory=True)
    for group in groups:
        for at, rank in enumerate(group):
            every = [rows_of(member, lengths)[at] for member in group]
            assert torch.equal(found[rank], torch.stack(every).sum(0))


@pytest.mark.parametrize("odd", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("share_memory", [False, True])
def test_what_is_not_finite_arrives(
    share_memory: bool, odd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rank_main(ranks: Ranks) -> torch.Tensor:
        rows = [torch.ones(3, dtype=torch.float64) for _ in range(2)]
        rows[0][1] = odd if ranks.rank == 1 else 1.0
        add_of_others(rows[ranks.rank], rows, ranks.reserved_memory(rows_size_bytes(3, 2)))
        return rows[ranks.rank]

    first, second = as_ranks(monkeypatch, 2, rank_main, share_memory=share_memory)
    assert torch.equal(first.isfinite(), torch.tensor([True, False, True]))
    assert torch.equal(second, torch.full((3,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("bucket_elements", [1, 30, 1 << 20])
@pytest.mark.parametrize("share_memory", [False, True])
def test_parts_have_the_sums_of_one_rank(
    share_memory: bool, bucket_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters that several ranks own in parts of other lengths, and one that one owns whole."""
    shapes = {"a": (40, 3), "b": (7,), "c": ()}
    cuts = {
        "a": [Cut(rank=0, start=0, end=100), Cut(rank=2, start=100, end=120)],
        "b": [Cut(rank=1, start=0, end=7)],
        "c": [Cut(rank=2, start=0, end=1)],
    }
    generator = torch.Generator().manual_seed(5)
    grads = [
        [torch.randn(shape, generator=generator) for shape in shapes.values()] for _ in range(6)
    ]

    def totals(ranks: Ranks) -> dict[tuple[str, int], torch.Tensor]:
        alone = ranks.world_size == 1
        of = {
            name: [Cut(rank=0, start=one.start, end=one.end) for one in held] if alone else held
            for name, held in cuts.items()
        }
        named = [(name, torch.nn.Parameter(torch.zeros(shape))) for name, shape in shapes.items()]
        sums = PartitionSums(named, of, ranks, bucket_elements=bucket_elements)
        sums.begin(dict.fromkeys(shapes, 3), len(grads))
        for mine in grads[ranks.rank :: ranks.world_size]:
            for number, grad in enumerate(mine):
                sums.take(number, grad)
            sums.finish()
        sums.ask()
        assert sums.agree() == []
        return {(name, cut.start): total.clone() for name, cut, total in sums.totals()}

    (truth,) = as_ranks(monkeypatch, 1, totals)
    found = as_ranks(monkeypatch, 3, totals, share_memory=share_memory)
    joined = {key: total for one in found for key, total in one.items()}
    assert joined.keys() == truth.keys()
    for key, total in joined.items():
        assert torch.equal(total, truth[key])
