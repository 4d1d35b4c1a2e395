"""`relaunch checkpoint` on checkpoints that name frozen tensors in a file that is not the run's."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpointing import Fragment, FrozenTensors, StoredBefore, TensorSpec
from checkpointing.format.manifest import Chunk, NamedTensor, StoredTensor
from checkpointing.storage.checksum import crc32
from launcher.errors import UsageError

BASE = torch.arange(5000.0)
SPEC = TensorSpec(fqn="base", key="param", shape=(5000,), dtype="F32")

Answer = Callable[..., tuple[int, str]]


@pytest.fixture(name="weights")
def _weights(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    save_file({"there": BASE, "more": torch.ones(3)}, tmp_path / "models" / "model.safetensors")
    return tmp_path / "models" / "model.safetensors"


@pytest.fixture(name="named")
def _named(kit: ModuleType, tmp_path: Path, weights: Path) -> Path:
    """A run folder with steps 10 and 20, which name the base, and 30, which does not."""
    content = BASE.numpy().tobytes()
    one = NamedTensor.of(
        path=str(weights),
        tensor="there",
        size_bytes=len(content),
        block_bytes=1 << 20,
        crc32=(crc32(content),),
    )
    chunk = Chunk(file=one.name, start=0, end=5000, offset=0)
    before = StoredBefore(tensors=(StoredTensor(spec=SPEC, chunks=(chunk,)),), named=(one,))
    stored = FrozenTensors()
    stored.loaded("ab" * 8, before, [Fragment(spec=SPEC, start=0, end=5000, data=BASE)])
    for step in (10, 20, 30):
        tensors, kept = ({"param/base": BASE}, stored) if step < 30 else ({}, None)
        kit.save(tmp_path / "checkpoints", step, tensors, best_step=None, stored=kept)
    return tmp_path


def test_list_shows_both_sizes_and_what_is_not_held(
    named: Path, weights: Path, answer: Answer
) -> None:
    code, out = answer("list", named)
    assert code == 0
    assert out.splitlines()[1].split()[:3] == ["step", "size", "own"]
    assert (
        out.count(f"not self-contained: 19.5 KiB of frozen tensors are read from {weights};") == 1
    )
    rows = json.loads(answer("list", named, "--json")[1])[0]["checkpoints"]
    assert [row["size_bytes"] - row["own_bytes"] for row in rows] == [0, 20000, 20000]
    assert [row["named_bytes"] for row in rows] == [0, 20000, 20000]
    assert rows[1]["named_files"] == [str(weights)]


def test_show(named: Path, weights: Path, answer: Answer) -> None:
    out = answer("show", named, 20)[1]
    assert f"{weights}  19.5 KiB of it, named" in out
    assert "not self-contained" in out
    document = json.loads(answer("show", named, 20, "--json")[1])
    assert document["named"] == [{"path": str(weights), "tensor": "there", "size_bytes": 20000}]
    assert "not self-contained" not in answer("show", named, 30)[1]


def test_verify_diff_and_prune(named: Path, weights: Path, answer: Answer) -> None:
    assert answer("verify", named)[0] == 0
    steps = [named / "checkpoints" / f"step-000000{step}" for step in (10, 20)]
    assert "param/base" not in answer("diff", *steps)[1]
    content = weights.read_bytes()
    weights.write_bytes(content[:-9] + b"x" + content[-8:])
    code, out = answer("verify", named)
    assert code == 1
    assert "do not match their checksum (CRC-32 " in out
    assert "is named, not copied, by the checkpoints of steps 20, 10; the newest checkpoint" in out
    answer("prune", named, "--keep", 1, "--yes")
    assert weights.exists()
    assert not steps[0].exists()


def test_where_it_lies_now(named: Path, weights: Path, answer: Answer, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    weights.parent.rename(moved)
    code, out = answer("list", named)
    assert code == 1
    assert "--weights to `relaunch checkpoint`" in out
    for given in (moved, moved / "model.safetensors"):
        assert answer("list", named, "--weights", given)[0] == 0
        assert answer("verify", named, "--weights", given)[0] == 0
    one = named / "checkpoints" / "step-00000020"
    assert answer("verify", one, "--weights", moved)[0] == 0
    assert answer("show", named, 20, "--weights", moved)[0] == 0
    other = named / "checkpoints" / "step-00000010"
    assert answer("diff", one, other, "--weights", moved)[0] in (0, 1)
    out = answer("export", named, tmp_path / "out", "--step", 20, "--weights", moved)[1]
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["base"], BASE)


@pytest.mark.parametrize("given", ["nothing", "empty"])
def test_weights_that_are_none(named: Path, answer: Answer, tmp_path: Path, given: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is no safetensors file, and no folder with one"):
        answer("list", named, "--weights", tmp_path / given)
