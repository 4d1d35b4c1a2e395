"""`relaunch checkpoint` on checkpoints that share the objects of their frozen tensors."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from checkpointing import CheckpointStore, FrozenTensors, Manifest
from launcher.run_folder.tables import size_text

BASE = {"param/base": torch.arange(5000.0)}


@pytest.fixture
def shared(kit: ModuleType, tmp_path: Path) -> Path:
    """Steps 10 and 20 share one object, 30 has another."""
    stored = FrozenTensors()
    for step in (10, 20, 30):
        if step == 30:
            stored.forget()
        kit.save(tmp_path / "checkpoints", step, BASE, best_step=None, stored=stored)
    return tmp_path


def opened(folder: Path, step: int) -> Manifest:
    with CheckpointStore(folder / "checkpoints").open(step) as reader:
        return reader.manifest


def not_own_bytes(folder: Path, answer: Callable[..., tuple[int, str]]) -> list[int]:
    """Of the checkpoints, newest first."""
    rows = json.loads(answer("list", folder, "--json")[1])[0]["checkpoints"]
    return [row["size_bytes"] - row["own_bytes"] for row in rows]


def test_list_shows_both_sizes(shared: Path, answer: Callable[..., tuple[int, str]]) -> None:
    code, out = answer("list", shared)
    assert code == 0
    header, _, second = out.splitlines()[1:4]
    assert header.split()[:3] == ["step", "size", "own"]
    manifest = opened(shared, 20)
    assert size_text(manifest.size_bytes) in second
    assert size_text(manifest.own_bytes) in second
    assert not_own_bytes(shared, answer) == [0, 24096, 24096]  # step 30 alone names its object


def test_what_a_shard_shares_by_a_second_name_is_not_its_own(
    kit: ModuleType, folder: Path, answer: Callable[..., tuple[int, str]]
) -> None:
    """As a save of what did not change leaves it: one file under two names."""
    shards = [
        folder / "checkpoints" / f"step-000000{step}" / "r00000.safetensors" for step in (20, 30)
    ]
    assert not_own_bytes(folder, answer) == [0, 0, 0]
    size_bytes = shards[0].stat().st_size
    assert size_bytes == opened(folder, 20).size_bytes == opened(folder, 30).size_bytes
    shards[1].unlink()
    shards[1].hardlink_to(shards[0])
    assert not_own_bytes(folder, answer) == [size_bytes, size_bytes, 0]
    row = answer("list", folder)[1].splitlines()[2].split()
    assert row[3:5] == ["0", "B"]
    assert not_own_bytes(shards[0].parent, answer) == [size_bytes]


def test_where_a_manifest_is_damaged_no_object_is_of_one_alone(
    shared: Path, answer: Callable[..., tuple[int, str]]
) -> None:
    (shared / "checkpoints" / "step-00000010" / "manifest.json").write_text("{")
    rows = json.loads(answer("list", shared, "--json")[1])[0]["checkpoints"]
    assert [row["size_bytes"] - row["own_bytes"] for row in rows[:2]] == [24096, 24096]


def test_list_has_no_such_column_without_objects(
    folder: Path, answer: Callable[..., tuple[int, str]]
) -> None:
    assert "own" not in answer("list", folder)[1].splitlines()[1].split()


@pytest.mark.parametrize(("keep", "num_objects"), [(2, 2), (1, 1)])
def test_prune_says_what_it_frees_and_keeps_what_is_named(
    shared: Path, answer: Callable[..., tuple[int, str]], keep: int, num_objects: int
) -> None:
    """Step 10 shares with 20: only when both go, their object goes too."""
    own = sum(opened(shared, step).own_bytes for step in (10, 20)[: 3 - keep])
    freed = own + (24096 if keep == 1 else 0)
    assert size_text(freed) in answer("prune", shared, "--keep", keep)[1]
    assert len(list((shared / "checkpoints" / "objects").iterdir())) == 2
    out = answer("prune", shared, "--keep", keep, "--yes", "--json")[1]
    assert json.loads(out)["freed_bytes"] == freed
    assert len(list((shared / "checkpoints" / "objects").iterdir())) == num_objects
    assert answer("verify", shared)[0] == 0


def test_a_pinned_checkpoint_keeps_its_object(
    shared: Path, answer: Callable[..., tuple[int, str]]
) -> None:
    answer("pin", shared, 10)
    answer("prune", shared, "--keep", 1, "--yes")
    assert answer("verify", shared) == (
        0,
        "checkpoints/step-00000030: whole\ncheckpoints/step-00000010: whole\n",
    )


def test_diff_and_export_see_them(
    kit: ModuleType, shared: Path, answer: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    first, second = (shared / "checkpoints" / f"step-000000{step}" for step in (10, 20))
    code, out = answer("diff", first, second)
    assert "base" not in out
    assert code == 1  # exp_avg differs
    answer("export", shared / "checkpoints" / "step-00000020", tmp_path / "out")
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(exported["base"], BASE["param/base"])


def test_a_damaged_object_is_told_with_what_needs_it(
    kit: ModuleType, shared: Path, answer: Callable[..., tuple[int, str]]
) -> None:
    (name,) = opened(shared, 10).objects
    kit.damage(shared / "checkpoints" / name)
    code, out = answer("verify", shared)
    assert code == 1
    needs = "steps 20, 10; the newest checkpoint without it is step 30"
    assert out.count(needs) == 2
    assert "step-00000030: whole" in out
