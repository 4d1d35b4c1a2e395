import pytest
import torch
from torch import nn

from strategies import BuildOptions, ConfigError, Ranks, as_patterns
from strategies.parallel.model.blocks import find_blocks, shared_with_outside
from strategies.parallel.native.rows import blocks_to_shard, mesh_of


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.experts = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])


def tied() -> nn.Module:
    model = nn.ModuleDict({"layers": nn.ModuleList([Block() for _ in range(3)])})
    layers = model["layers"]
    layers[1].first.weight = layers[2].first.weight
    return model


def neighbours() -> nn.Module:
    model = nn.Module()
    model.embed = nn.Embedding(3, 4)
    model.encoder1, model.encoder2, model.decoder = Block(), Block(), Block(5)
    return model


def residual() -> nn.Module:
    """As ResNets are: stages of another width each, with repeated blocks inside."""
    stages = {f"layer{k}": nn.Sequential(Block(k), Block(k)) for k in (1, 2)}
    model = nn.Module()
    model.stem = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    for name, stage in stages.items():
        setattr(model, name, stage)
    return model


def shared() -> nn.Module:
    """One module that stands three times, between two of its class."""
    one = Block()
    return nn.ModuleList([one, one, Block(), one, Block()])


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (tied(), ["layers.0", "layers.1", "layers.2"]),
        # The neighbour of another shape is entered, and its list is one of repeated modules.
        (neighbours(), ["encoder1", "encoder2", "decoder.experts.0", "decoder.experts.1"]),
        (residual(), ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]),
        (shared(), ["0", "2", "4"]),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), []),
        (nn.Sequential(nn.ModuleList([nn.ReLU(), nn.ReLU()]), nn.Linear(2, 2)), []),
    ],
)
def test_repeated_modules_are_found(model: nn.Module, names: list[str]) -> None:
    assert list(find_blocks(model)) == names


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("encoder1", ["encoder1"]),
        ("Block", ["encoder1", "encoder2", "decoder"]),
        ("encoder*", ["encoder1", "encoder2"]),
        ("decoder.experts.*", ["decoder.experts.0", "decoder.experts.1"]),
        ("encoder*.experts.1,encoder2", ["encoder1.experts.1", "encoder2"]),
    ],
)
def test_blocks_by_name(pattern: str, names: list[str]) -> None:
    patterns = as_patterns(pattern)
    assert isinstance(patterns, tuple)
    assert list(find_blocks(neighbours(), patterns)) == names


def test_a_name_that_is_nowhere_is_told_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r'"layer\.\*".*layers\.\* \(Block\)'):
        find_blocks(tied(), ("layer.*",))


def test_blocks_that_share_a_parameter_are_left_to_the_root() -> None:
    model = tied()
    assert shared_with_outside(model, model["layers"][1]) == ["layers.1.first.weight"]
    assert list(blocks_to_shard(model, ())) == ["layers.0"]
    with pytest.raises(ConfigError, match=r"layers\.1 shares layers\.1\.first\.weight"):
        blocks_to_shard(model, ("layers.*",))


def test_options_name_the_strategies_that_can() -> None:
    options = BuildOptions(shard_blocks=("layers.*",))
    assert options.strategies() == ("fsdp",)
    options.require("fsdp", "cpu")
    with pytest.raises(ConfigError, match=r"shard_blocks=layers\.\* .*strategy=zero2.*fsdp"):
        options.require("zero2", "cpu")
    with pytest.raises(ConfigError, match="computes on the CPU"):
        BuildOptions(offload=True).require("fsdp", "cpu")
    BuildOptions(offload=True).require("zero1", "cuda")
    with pytest.raises(ConfigError, match="--exact cannot be done with offload=True"):
        BuildOptions(offload=True, exact=True).require("fsdp", "cuda")
    with pytest.raises(ConfigError, match=r"offload=True .*ddp.*fsdp or zero1 or zero2 or zero3"):
        BuildOptions(offload=True).require("ddp", "cuda")
    assert BuildOptions().strategies() == ("single", "ddp", "fsdp", "zero1", "zero2", "zero3")


def test_hybrid_sharding_needs_whole_nodes() -> None:
    three = Ranks(rank=0, world_size=3, device=torch.device("cpu"), host_group=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="3 ranks are not whole nodes of 2"):
        mesh_of(three, BuildOptions(hybrid_shard=True, local_world_size=2))
