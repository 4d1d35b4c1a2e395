import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from strategies import Blueprint, BuildOptions, ConfigError, Ranks, precision_for
from strategies.parallel.auto.estimate import Choice, Wishes, choose
from strategies.parallel.auto.measure import measure_model
from strategies.parallel.auto.memory_model import ModelSizes, Spread, needs

MIB = 1024**2
ALL = ("single", "ddp", "fsdp", "zero1", "zero2", "zero3")
# A hundred blocks of a million, Adam, one micro-batch of 100 MiB.
LARGE = ModelSizes(
    trainable=100 * MIB,
    frozen_bytes=0,
    buffer_bytes=0,
    optimizer_bytes=800 * MIB,
    largest_block=MIB,
    root=0,
    compute_bytes=4,
    activation_bytes=100 * MIB,
    largest_parameter=MIB,
    stepping_bytes=8 * MIB,
    stepping_element_bytes=8,
    accumulates=True,
    on_host=True,
)


def over(ranks: int, *, shards: int | None = None, by_name: bool = False) -> Spread:
    return Spread(ranks=ranks, shards=ranks if shards is None else shards, by_name=by_name)


@pytest.mark.parametrize(
    ("memory_mib", "ranks", "strategies", "chosen"),
    [
        (2000, 1, ALL, "single"),
        (2400, 4, ALL, "ddp"),
        (1200, 4, ALL, "fsdp"),
        (2000, 4, ("fsdp",), "fsdp"),
        (2000, 4, ("zero1", "zero2"), "zero1"),
    ],
)
def test_the_simplest_that_fits(
    memory_mib: int, ranks: int, strategies: tuple[str, ...], chosen: str
) -> None:
    wishes = Wishes(able=strategies)
    choice = choose(LARGE, wishes, over(ranks), memory_bytes=memory_mib * MIB)
    assert choice.strategy == chosen
    assert (chosen in choice.table) == (ranks > 1)


def test_nothing_fits_and_the_smallest_number_is_said() -> None:
    wishes = Wishes(able=ALL)

    def ask(ranks: int) -> Choice:
        return choose(LARGE, wishes, over(ranks, by_name=True), memory_bytes=500 * MIB)

    with pytest.raises(ConfigError) as caught:
        ask(2)
    text = str(caught.value)
    assert "450.0 MiB that may be used on each of 2 ranks" in text
    (number,) = map(int, re.findall(r"ranks that would be enough is (\d+),", text))
    assert ask(number).reason.startswith("the simplest that fits")
    # One fewer lacks room for activations alone: a trial, and no refusal.
    assert "NOT LESS than may be used" in ask(number - 1).reason
    sizes = replace(LARGE, frozen_bytes=4000 * MIB, largest_parameter=100 * MIB)
    with pytest.raises(ConfigError, match="More ranks would not be enough"):
        choose(sizes, wishes, over(2, by_name=True), memory_bytes=500 * MIB)


@pytest.mark.parametrize(
    ("ranks", "memory_mib", "chosen"),
    [(1, 2500, "single"), (4, 2800, "fsdp"), (4, 1200, "fsdp"), (64, 1000, "fsdp")],
)
def test_nothing_is_refused_for_its_activations_alone(
    ranks: int, memory_mib: int, chosen: str
) -> None:
    sizes = replace(LARGE, activation_bytes=30_000 * MIB)
    wishes, spread = Wishes(able=ALL), over(ranks, by_name=True)
    choice = choose(sizes, wishes, spread, memory_bytes=memory_mib * MIB)
    assert choice.strategy == chosen
    assert "29.3 GiB of it activations" in choice.reason
    assert "lower micro_batch" in choice.reason
    # A model that does not fit is refused whatever its activations.
    with pytest.raises(ConfigError):
        choose(sizes, Wishes(able=("ddp",)), over(4), memory_bytes=1200 * MIB)


def test_one_rank_on_which_the_model_does_not_fit() -> None:
    with pytest.raises(ConfigError) as caught:
        choose(LARGE, Wishes(able=ALL), over(1), memory_bytes=1500 * MIB)
    text = str(caught.value)
    assert "the model does not fit into the 1.3 GiB that may be used on this one rank" in text
    assert "smallest number of ranks that would be enough is 2, with fsdp" in text


def test_what_was_not_measured_is_said() -> None:
    sizes = replace(LARGE, activation_bytes=None)
    choice = choose(sizes, Wishes(able=ALL), over(2), memory_bytes=9000 * MIB)
    assert "NOT in these numbers" in choice.reason


def total_mib(strategy: str, **changed: object) -> int:
    sizes = replace(LARGE, **changed)  # type: ignore[arg-type]
    need = needs(sizes, (strategy,), over(4))[strategy]
    return round(need.total / MIB)


def test_one_micro_batch_a_step_leaves_all_gradients_in_the_buckets() -> None:
    assert total_mib("ddp") - total_mib("ddp", accumulates=False) == 400
    assert total_mib("fsdp") == total_mib("fsdp", accumulates=False)


def test_on_a_gpu_deepspeeds_bucket_is_there_whole() -> None:
    bucket_mib = round(4 * 500_000_000 / MIB)
    for strategy in ("zero2", "zero3"):
        assert total_mib(strategy, on_host=False) - total_mib(strategy) == bucket_mib - 400
    # And the copies that prove the layout are not.
    built = [
        needs(replace(LARGE, on_host=host), ("zero2",), over(4))["zero2"] for host in (True, False)
    ]
    assert built[0].building - built[1].building == 400 * MIB


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_a_step_that_takes_more_than_a_backward_counts(strategy: str) -> None:
    hungry = {"stepping_bytes": 9000 * MIB, "stepping_element_bytes": 90}
    assert total_mib(strategy, **hungry) - total_mib(strategy) > 1000


def test_hybrid_sharding_shards_inside_a_node() -> None:
    def parameters(shards: int) -> int:
        found = needs(LARGE, ("fsdp",), over(8, shards=shards))
        return found["fsdp"].parameters

    assert parameters(4) == 2 * parameters(8) == 100 * MIB


class Chain(nn.Module):
    def __init__(self, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        layers = (nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sizes_are_measured_without_memory(precision: str) -> None:
    blueprint = Blueprint(
        model=Chain,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
        precision=precision_for(precision, "cpu"),
        max_grad_norm=None,
        seed=1,
        ranks=Ranks(rank=0, world_size=1, device=torch.device("cpu"), host_group=None),  # type: ignore[arg-type]
        options=BuildOptions(),
    )
    batch = (torch.randn(1000, 64), torch.zeros(1000, dtype=torch.int64))
    sizes = measure_model(blueprint, batch, None)
    block = 64 * 64 + 64
    assert (sizes.trainable, sizes.largest_block, sizes.root) == (4 * block, block, 0)
    assert sizes.optimizer_bytes == 8 * 4 * block
    one = 1000 * 64 * sizes.compute_bytes
    assert sizes.activation_bytes is not None
    # The output of every layer at the least; at the most a few copies of the last in fp32.
    assert 4 * one <= sizes.activation_bytes <= 4 * one + 5 * 1000 * 64 * 4


def test_what_zero_copies_to_the_host_of_a_gpu_counts() -> None:
    """A fp32 copy of the whole model for each rank, while it is built."""
    on_gpu = replace(LARGE, on_host=False, trainable=1000 * MIB, activation_bytes=0)
    wishes = Wishes(able=("zero2",))

    def ask(host_gib: int, *, by_name: bool = False) -> Choice:
        return choose(
            on_gpu,
            wishes,
            over(8, by_name=by_name),
            memory_bytes=80 * 1024 * MIB,
            host_bytes=host_gib * 1024 * MIB,
        )

    assert "and 3.9 GiB on the host" in ask(5).reason
    with pytest.raises(ConfigError, match=r"72.0 GiB and, of the host, 1.8 GiB that may be used"):
        ask(2)
    assert "host" not in ask(2, by_name=True).reason


def test_exact_sums_take_the_place_of_the_reducers_buckets() -> None:
    plain = needs(LARGE, ("single", "ddp", "fsdp"), over(4))
    exact = needs(replace(LARGE, exact=True), ("single", "ddp", "fsdp"), over(4))
    # 8 bytes an element on every rank, and no buffer beside them for what accumulates.
    assert exact["ddp"].gradients - plain["ddp"].gradients == 800 * MIB
    assert plain["ddp"].buffers - exact["ddp"].buffers == 400 * MIB
    # In shards; what a block sends is twice as large, and the host's copy of it too.
    assert exact["fsdp"].gradients - plain["fsdp"].gradients == 200 * MIB
    assert exact["fsdp"].buffers - plain["fsdp"].buffers == 8 * MIB
    alone = needs(replace(LARGE, exact=True), ("single",), over(1))["single"]
    assert alone.gradients == (4 + 8) * LARGE.trainable
    # The only micro-batch of a step is held as it is, and so are its totals.
    once = needs(replace(LARGE, exact=True, accumulates=False), ("ddp",), over(4))["ddp"]
    assert once.gradients == (4 + 4) * LARGE.trainable


def test_exact_sums_of_zero_are_in_shards_and_take_the_place_of_its_bucket() -> None:
    names = ("zero1", "zero2", "zero3")
    for on_host in (True, False):
        sizes = replace(LARGE, on_host=on_host)
        plain, exact = (
            needs(sizes, names, over(4)),
            needs(replace(sizes, exact=True), names, over(4)),
        )
        # 8 bytes an element of the share; stage 1 keeps no whole gradients until the step.
        assert {name: exact[name].gradients - plain[name].gradients for name in names} == {
            "zero1": (200 - 400) * MIB,
            "zero2": (200 - 100) * MIB,
            "zero3": 200 * MIB,
        }
        # One bucket in float64, gloo's copy of it, and the gradients that wait for it to be full.
        bucket = ((16 if on_host else 8) + 4) * 4 * MIB
        assert {exact[name].buffers for name in names[:2]} == {bucket}
        assert plain["zero2"].buffers > bucket


def test_replicas_compute_under_autocast_and_shards_with_cast_weights() -> None:
    sizes = replace(LARGE, compute_bytes=2, activation_bytes=60, autocast_bytes=100)
    found = needs(sizes, ALL, over(4))
    assert {name: need.activations for name, need in found.items()} == {
        "ddp": 100,
        "fsdp": 60,
        "zero1": 60,
        "zero2": 60,
        "zero3": 60,
    }
    assert needs(sizes, ALL, over(1))["single"].activations == 100
