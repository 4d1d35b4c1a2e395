"""Layouts of 8, 64 and 1,024 ranks, with torch's fake process group: values mean nothing there.

Each rank in turn is this process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import MagicMock

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import debug

from checkpointing import Fragment
from checkpointing.format.ranges import Range, find_cover_problem
from strategies import Blueprint, BuildOptions, Ranks, Strategy, precision_for, strategy_class
from strategies.parallel.native import engine, fsdp
from strategies.parallel.state.replicated_state import replicated_tensors, striped

PER_NODE = 4


class Net(nn.Module):
    """Rows that no number of ranks divides, fewer rows than ranks, and a parameter without any."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 67), nn.ReLU(), nn.Linear(67, 5)) for _ in range(2)
        )
        self.norm = nn.BatchNorm1d(5)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        scaled: torch.Tensor = self.norm(x) * self.scale
        return scaled


@pytest.fixture(autouse=True)
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be compared over ranks that are not there."""
    monkeypatch.setattr(engine, "refuse_unlike_models", lambda model, ranks: None)
    monkeypatch.setattr(engine, "require_same_choice", lambda whole, ranks: None)
    monkeypatch.setattr(fsdp, "agreed_gathers", MagicMock())


@contextmanager
def as_rank(rank: int, world_size: int) -> Iterator[Ranks]:
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    # They remember results with the mesh, and in it the place, of the rank that this was before.
    for name in ("_clear_sharding_prop_cache", "_clear_fast_path_sharding_prop_cache"):
        getattr(debug, name, lambda: None)()
    dist.init_process_group("fake", store=fake.FakeStore(), rank=rank, world_size=world_size)
    group = dist.group.WORLD
    assert group is not None
    device = torch.device("cpu")
    try:
        yield Ranks(rank=rank, world_size=world_size, device=device, host_group=group)
    finally:
        dist.destroy_process_group()


def build(name: str, ranks: Ranks) -> Strategy:
    kind, _, hybrid = name.partition("/")
    blueprint = Blueprint(
        model=Net,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.1),
        precision=precision_for("fp32", "cpu"),
        max_grad_norm=None,
        seed=1,
        ranks=ranks,
        options=BuildOptions(local_world_size=PER_NODE, hybrid_shard=bool(hybrid)),
    )
    return strategy_class(kind)(blueprint)


def stepped(name: str, rank: int, world_size: int) -> tuple[list[Fragment], dict[str, int]]:
    """Return what a rank writes after a step, and the sizes of all tensors."""
    with as_rank(rank, world_size) as ranks:
        strategy = build(name, ranks)
        if name == "ddp":  # its reducer does not take what a fake sum returns
            for parameter in strategy.module.parameters():
                parameter.grad = torch.ones_like(parameter)
        else:
            strategy.micro_step(is_last=True)
            strategy.backward(strategy.module(torch.randn(4, 5)).sum())
        assert strategy.step(4.0).applied
        sizes = {spec.fqn: spec.numel for spec in strategy.weight_specs()}
        return strategy.fragments(weights_only=False), sizes


def byte_count(fragments: list[Fragment]) -> int:
    return sum(f.data.numel() * f.data.element_size() for f in fragments)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp/hybrid"])
def test_a_save_of_8_ranks_holds_each_element_once(name: str) -> None:
    ranges = defaultdict(list)
    written = []
    for rank in range(8):
        fragments, sizes = stepped(name, rank, 8)
        written.append(byte_count(fragments))
        for fragment in fragments:
            ranges[fragment.spec.fqn, fragment.spec.key].append((fragment.start, fragment.end))
    assert {key for _, key in ranges} >= {"fp32", "exp_avg", "exp_avg_sq"}
    for (fqn, key), found in ranges.items():
        problem = find_cover_problem(found, Range(0, sizes[fqn]), "elements")
        assert problem is None, (fqn, key, problem)
    weights = {fqn for fqn, key in ranges if key != "buffer"}
    assert weights | {fqn for fqn, _ in ranges} >= set(sizes)
    assert name != "ddp" or max(written) - min(written) <= sum(written) // 20


@pytest.mark.parametrize(
    ("name", "world_size", "pairs"),
    [
        ("fsdp", 64, (0, 33, 62)),
        ("fsdp", 1024, (0, 33, 1022)),
        ("fsdp/hybrid", 64, (0, 2, 61)),
        ("fsdp/hybrid", 1024, (0, 1022)),
    ],
)
def test_neighbours_of_many_ranks_adjoin(
    name: str, world_size: int, pairs: tuple[int, ...]
) -> None:
    """What one rank ends with the next begins with, and each holds its share at the most."""
    shards = PER_NODE if "/" in name else world_size
    for rank in pairs:
        held = []
        for one in (rank, rank + 1):
            with as_rank(one, world_size) as ranks:
                strategy = build(name, ranks)
                found = {f.spec.fqn: f for f in strategy.fragments(weights_only=True)}
                sizes = {s.fqn: s.shape for s in strategy.weight_specs() if s.key == "fp32"}
            held.append({fqn: f for fqn, f in found.items() if sizes.get(fqn)})
        for fqn, shape in sizes.items():
            first, second = (one.get(fqn) for one in held)
            if rank == 0 and shape and shards == world_size:
                assert first is not None
                assert first.start == 0
            if first is not None and second is not None and shards == world_size:
                assert first.end == second.start
            for part in (first, second):
                if part is not None and shape:
                    rows = -(-shape[0] // shards)
                    assert part.end - part.start <= rows * (part.spec.numel // shape[0])


@pytest.mark.parametrize("world_size", [64, 1024])
def test_replicas_write_in_equal_shares_on_many_ranks(world_size: int) -> None:
    with as_rank(0, world_size) as ranks:
        strategy = build("ddp", ranks)
        model, optimizer = strategy._model, strategy._optimizer
        tensors = replicated_tensors(strategy.catalogue, model, optimizer, weights_only=True)
    ranges = defaultdict(list)
    written = []
    for rank in range(world_size):
        shares = striped(tensors, rank, world_size)
        written.append(byte_count(shares))
        for fragment in shares:
            ranges[fragment.spec.name].append((fragment.start, fragment.end))
    for spec, _ in tensors:
        assert find_cover_problem(ranges[spec.name], Range(0, spec.numel), "elements") is None
    assert max(written) - min(written) <= 8
