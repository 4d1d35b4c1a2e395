"""How a model is built changes what it costs, and not what it learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

WORKER = str(Path(__file__).parents[1] / "workers" / "build_worker.py")
LARGEST_DIFFERENCE = 1e-6
Built = tuple[str, str, str, str, dict[str, Any]]

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def truth(python: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps on one rank, plainly."""
    folder = tmp_path_factory.mktemp("truth")
    plain = [(m, "single", m, "fp32", {}) for m in ("Awkward", "Blocked")]
    done = python(WORKER, str(folder), str(plain), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def difference(one: Path, other: Path) -> float:
    left, right = load_file(one), load_file(other)
    assert left.keys() == right.keys()
    return max(float((left[k].double() - right[k].double()).abs().max()) for k in left)


@pytest.fixture
def build(launch: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    def build(nproc: int, *ways: Built) -> str:
        launched = launch("--nproc-per-node", str(nproc), WORKER, str(tmp_path), str(list(ways)))
        assert launched.wait(200) == 0, launched.stderr
        return str(launched.stdout)

    return build


def test_hybrid_sharding_on_two_nodes_of_two_ranks(
    build: Callable[..., str], tmp_path: Path, truth: Path
) -> None:
    recipe = {"hybrid_shard": True, "local_world_size": 2, "shard_blocks": "blocks.1,narrow"}
    said = build(4, ("hybrid", "fsdp", "Awkward", "fp32", recipe))
    assert "built hybrid blocks.1 narrow 2" in said
    found = difference(tmp_path / "hybrid.safetensors", truth / "Awkward.safetensors")
    assert found <= LARGEST_DIFFERENCE


def test_recomputed_blocks_learn_the_same_and_leave_batch_norm_alone(
    build: Callable[..., str], tmp_path: Path, truth: Path
) -> None:
    strategies = ("ddp", "fsdp", "zero1", "zero3", "accelerate")
    said = build(
        2,
        *((s, s, "Blocked", "fp32", {"checkpoint_blocks": True}) for s in strategies),
        ("bf16-ddp", "ddp", "Blocked", "bf16", {}),
        ("bf16-fsdp", "fsdp", "Blocked", "bf16", {}),
        ("bf16-again", "fsdp", "Blocked", "bf16", {"checkpoint_blocks": "blocks.*"}),
        ("bf16-zero2", "zero2", "Blocked", "bf16", {}),
    )
    for strategy in strategies:
        found = difference(tmp_path / f"{strategy}.safetensors", truth / "Blocked.safetensors")
        assert found <= LARGEST_DIFFERENCE, strategy
    assert "refused bf16-zero2: blocks.0.1 is a BatchNorm1d" in said
    fsdp = tmp_path / "bf16-fsdp.safetensors"
    assert difference(fsdp, tmp_path / "bf16-again.safetensors") == 0.0
    # Statistics and weights of the norms are in fp32 in both, their inputs in bf16.
    assert difference(fsdp, tmp_path / "bf16-ddp.safetensors") < 2e-2


@pytest.mark.slow
def test_the_start_by_name_is_the_same_under_every_strategy(
    build: Callable[..., str], python: Callable[..., Any], tmp_path: Path
) -> None:
    by_name = {"init": "by-name"}
    strategies = ("ddp", "fsdp", "zero1", "zero3", "accelerate")
    one = [("single", "single", "Awkward", "fp32", by_name)]
    done = python(WORKER, str(tmp_path), str(one), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # The third: a run begins with the weights of another, cut as its strategy wants them.
    weights = tmp_path / "run-single" / "export" / "model.safetensors"
    pretrained = {"weights": str(weights)}
    said = build(
        2,
        *((s, s, "Awkward", "fp32", by_name) for s in strategies),
        *((f"{s}-bf16", s, "Awkward", "bf16", by_name) for s in ("zero2", "zero3")),
        *(
            (f"adagrad-{s}", s, "Awkward", "fp32", {"optimizer": "adagrad"})
            for s in ("ddp", "zero1")
        ),
        ("sharding", "accelerate", "Awkward", "fp32", {"shard_blocks": "blocks.*"} | by_name),
        *((f"on-{s}", s, "Awkward", "fp32", pretrained | by_name) for s in ("ddp", "fsdp")),
        ("on-zero2", "zero2", "Awkward", "fp32", pretrained),
        ("other", "fsdp", "Blocked", "fp32", pretrained),
    )
    assert "built on-ddp" in said, said
    assert "refused sharding: shard_blocks=blocks.* cannot be done by strategy=accelerate" in said
    truth = tmp_path / "single.safetensors"
    for strategy in strategies:
        found = difference(tmp_path / f"{strategy}.safetensors", truth)
        assert found <= LARGEST_DIFFERENCE, strategy
    # Whole or cut, the masters keep the bits that bf16 has no place for.
    one, other = (tmp_path / f"{strategy}-bf16.safetensors" for strategy in ("zero2", "zero3"))
    assert difference(one, other) <= LARGEST_DIFFERENCE
    assert difference(one, truth) < 2e-2
    # It makes its state when it is made, for whole parameters: so each is stepped whole.
    one, other = (tmp_path / f"adagrad-{strategy}.safetensors" for strategy in ("ddp", "zero1"))
    assert difference(one, other) <= LARGEST_DIFFERENCE
    first = tmp_path / "on-ddp.safetensors"
    assert difference(first, truth) > 1e-4
    for strategy in ("fsdp", "zero2"):
        found = difference(tmp_path / f"on-{strategy}.safetensors", first)
        assert found <= LARGEST_DIFFERENCE, strategy
    assert f"refused other: rank 0 could not read the weights in {weights}: " in said
    assert "blocks.0.0.weight" in said
