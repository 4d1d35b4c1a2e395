"""What offloading moves from a GPU to the host, and what `auto` makes of it."""

from dataclasses import replace
from itertools import product

import pytest

from strategies import BuildOptions, ConfigError
from strategies.parallel.auto.estimate import Choice, Wishes, choose
from strategies.parallel.auto.memory_model import MemoryNeed, ModelSizes, Spread, needs
from strategies.parallel.auto.offload_model import needs_offloaded

MIB = 1024**2
GPU = 2**40
ABLE = ("fsdp", "zero1", "zero2", "zero3")
# A hundred blocks of a million, Adam, one micro-batch of 100 MiB, on GPUs.
LARGE = ModelSizes(
    trainable=100 * MIB,
    frozen_bytes=40 * MIB,
    buffer_bytes=4 * MIB,
    optimizer_bytes=800 * MIB,
    largest_block=MIB,
    root=0,
    compute_bytes=4,
    activation_bytes=100 * MIB,
    largest_parameter=MIB,
    stepping_bytes=8 * MIB,
    stepping_element_bytes=8,
    accumulates=True,
    on_host=False,
)
LOW = replace(LARGE, compute_bytes=2)


def both(
    name: str, sizes: ModelSizes = LARGE, *, ranks: int = 4, by_name: bool = False
) -> tuple[MemoryNeed, MemoryNeed]:
    """Return what a strategy needs without offloading and with it."""
    spread = Spread(ranks=ranks, shards=ranks, by_name=by_name)
    plain, offloaded = (reckon(sizes, (name,), spread) for reckon in (needs, needs_offloaded))
    return plain[name], offloaded[name]


@pytest.mark.parametrize(
    ("strategy", "sizes", "parameters_mib", "gradients_mib"),
    [
        ("fsdp", LARGE, 4, 0),
        ("fsdp", LOW, 4, 0),
        # All weights stay, in stage 1 all gradients until they are reduced, and in stage 2 the
        # fp32 sums of this rank's share of gradients in bf16.
        ("zero1", LARGE, 440, 400),
        ("zero1", LOW, 240, 600),
        ("zero2", LARGE, 440, 0),
        ("zero2", LOW, 240, 100),
        ("zero3", LARGE, 4, 0),
        ("zero3", LOW, 4, 0),
    ],
)
def test_what_stays_on_the_gpu(
    strategy: str, sizes: ModelSizes, parameters_mib: int, gradients_mib: int
) -> None:
    _, offloaded = both(strategy, sizes)
    assert offloaded.parameters == parameters_mib * MIB
    assert offloaded.gradients == gradients_mib * MIB
    assert offloaded.optimizer == 0
    assert offloaded.activations == 100 * MIB


@pytest.mark.parametrize(("strategy", "by_name"), list(product(ABLE, (False, True))))
def test_what_leaves_the_gpu_is_on_the_host(strategy: str, by_name: bool) -> None:
    for sizes in (LARGE, LOW):
        plain, offloaded = both(strategy, sizes, by_name=by_name)
        # The copies that prove ZeRO's layout, while the model is built.
        copies = 0 if by_name or strategy == "fsdp" else 4 * sizes.trainable
        assert plain.host == copies
        left = sum(
            getattr(plain, part) - getattr(offloaded, part)
            for part in ("parameters", "gradients", "optimizer")
        )
        # Masters and both moments of a quarter of the elements, at the least.
        assert left >= 12 * 25 * MIB
        assert offloaded.host >= left
        kept = [n.parameters + n.gradients + n.optimizer + n.buffers for n in (offloaded, plain)]
        assert kept[0] < kept[1]
        assert offloaded.stepping <= plain.stepping
        assert offloaded.building <= plain.building


def test_a_block_is_copied_over_and_its_gradients_back() -> None:
    plain, offloaded = both("fsdp")
    assert offloaded.buffers - plain.buffers == 2 * 4 * MIB // 4
    plain, offloaded = both("fsdp", LOW)
    assert offloaded.buffers - plain.buffers == (2 * 4 + 2) * MIB // 4


def test_a_model_that_is_built_by_name_is_never_whole_on_the_gpu() -> None:
    assert both("fsdp", by_name=True)[1].building == 4 * MIB
    assert both("fsdp")[1].building >= 400 * MIB
    assert both("zero3", by_name=True)[1].building == 8 * MIB
    assert both("zero3")[1].building == 440 * MIB


def test_the_copies_that_prove_the_layout_are_on_the_host() -> None:
    small_state = replace(LARGE, optimizer_bytes=0, stepping_element_bytes=0)
    for strategy in ("zero1", "zero2", "zero3"):
        hosts = [both(strategy, small_state, by_name=by_name)[1].host for by_name in (False, True)]
        assert hosts[0] - hosts[1] > 200 * MIB, strategy


def ask(
    memory_mib: float,
    *,
    ranks: int = 4,
    host_mib: int | None = None,
    sizes: ModelSizes = LARGE,
    **options: bool,
) -> Choice:
    asked = BuildOptions(**options)  # type: ignore[arg-type]
    wishes = Wishes(
        able=asked.strategies(),
        left_out=asked.left_out(),
        offload=asked.offload,
        able_offloaded=replace(asked, offload=True).strategies(),
    )
    return choose(
        sizes,
        wishes,
        Spread(ranks=ranks, shards=ranks, by_name=False),
        memory_bytes=int(memory_mib * MIB),
        host_bytes=None if host_mib is None else host_mib * MIB,
    )


@pytest.mark.parametrize("ranks", [1, 4])
def test_the_simplest_that_offloads_is_chosen_and_who_cannot_is_named(ranks: int) -> None:
    choice = ask(900, ranks=ranks, offload=True)
    assert choice.strategy == "fsdp"
    assert "MiB on the host" in choice.reason or "GiB on the host" in choice.reason
    lines = choice.table.splitlines()
    assert lines[0].split()[-3:] == ["total", "host", "fits"]
    replicated = "single" if ranks == 1 else "ddp"
    assert lines[-1] == f"{replicated:>8}  skipped: it cannot do offload=True"
    assert [line.split()[0] for line in lines[1:-1]] == list(ABLE)


def test_every_option_that_a_strategy_cannot_do_is_named() -> None:
    table = ask(900, offload=True, compile_blocks=True).table
    for strategy in ("zero1", "zero2", "zero3"):
        assert f"{strategy:>8}  skipped: it cannot do compile_blocks=True" in table
    assert f"{'ddp':>8}  skipped: it cannot do offload=True" in table
    assert "skipped" not in ask(GPU / MIB).table
    assert ask(GPU / MIB).table.splitlines()[0].split()[-2] == "host"  # for ZeRO's copies


def test_a_host_that_is_too_small_refuses() -> None:
    assert ask(900, offload=True, host_mib=700).strategy == "fsdp"
    with pytest.raises(
        ConfigError, match=r"810\.0 MiB and, of the host, 270\.0 MiB that may be used"
    ):
        ask(900, offload=True, host_mib=300)


@pytest.mark.parametrize(("ranks", "there"), [(1, "on the one rank"), (2, "on the 2 ranks,")])
def test_offloading_is_named_where_it_would_make_the_model_fit(ranks: int, there: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ask(700, ranks=ranks)
    *_, more, offload = str(caught.value).splitlines()
    assert "smallest number of ranks that would be enough" in more
    assert offload.startswith("Or pass offload=True to run.prepare: fsdp would then fit ")
    assert there in offload
    assert "whose free memory is not known" in offload
    # And it does.
    assert ask(700, ranks=ranks, offload=True).strategy == "fsdp"


@pytest.mark.parametrize(
    ("memory_mib", "host_mib", "activations_mib"),
    [(700, 100, 100), (700, None, 900), (100, None, 100)],
    ids=["host too small", "activations too large", "model too large to be built"],
)
def test_it_is_not_named_where_it_would_not(
    memory_mib: int, host_mib: int | None, activations_mib: int
) -> None:
    sizes = replace(LARGE, activation_bytes=activations_mib * MIB)
    with pytest.raises(ConfigError) as caught:
        ask(memory_mib, ranks=2, host_mib=host_mib, sizes=sizes)
    assert "offload=True" not in str(caught.value)


def test_nothing_is_said_of_it_where_it_was_asked() -> None:
    with pytest.raises(ConfigError) as caught:
        ask(100, ranks=2, offload=True)
    assert "Or pass" not in str(caught.value)
