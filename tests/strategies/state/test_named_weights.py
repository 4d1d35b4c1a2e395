"""Which frozen tensors are in the files of `weights=`: by their bytes, agreed by all ranks."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from checkpointing import JSON, Fragment, StoredBefore, TensorSpec, dtype_name
from launcher.training.reporting.start_table import named_text
from strategies.state import named_weights
from strategies.state.named_weights import files_given, named_in_files

GENERATOR = torch.Generator().manual_seed(3)
TENSORS = {
    "a": torch.randn(7, 5, generator=GENERATOR),
    "b": torch.randn(11, generator=GENERATOR).bfloat16(),
    "codes": torch.arange(33, dtype=torch.int8),
    "trained": torch.randn(4, generator=GENERATOR),
}


class _Talk:
    """The ranks of one process."""

    def __init__(self, rank: int, values: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.world_size = rank, len(values)
        self._values, self._barrier = values, barrier

    def all_gather(self, value: JSON) -> list[JSON]:
        self._values[self.rank] = json.loads(json.dumps(value))
        self._barrier.wait(20)
        found = list(self._values)
        self._barrier.wait(20)
        return found


class _Model:
    """A strategy that has cut its tensors over the ranks."""

    def __init__(self, tensors: dict[str, torch.Tensor], rank: int, world_size: int) -> None:
        self._tensors, self._rank, self._world_size = tensors, rank, world_size
        specs = {
            name: TensorSpec(
                fqn=name,
                key="fp32" if name == "trained" else "param",
                shape=tuple(tensor.shape),
                dtype=dtype_name(tensor.dtype),
            )
            for name, tensor in tensors.items()
        }
        self._specs = specs
        frozen = {name: spec for name, spec in specs.items() if spec.key == "param"}
        self.catalogue = SimpleNamespace(aliases={}, frozen=frozen)

    def weight_specs(self) -> list[TensorSpec]:
        return list(self._specs.values())

    def fragments(self, *, weights_only: bool) -> list[Fragment]:
        found = []
        for name, spec in self._specs.items():
            start, end = (
                spec.numel * rank // self._world_size for rank in (self._rank, self._rank + 1)
            )
            data = self._tensors[name].reshape(-1)[start:end]
            found.append(Fragment(spec=spec, start=start, end=end, data=data))
        return found


def found_by(
    num_ranks: int,
    weights: Path,
    change: Callable[[int, dict[str, torch.Tensor]], None] = lambda rank, tensors: None,
    but: frozenset[str] = frozenset(),
) -> list[StoredBefore]:
    values: list[Any] = [None] * num_ranks
    done: list[Any] = [None] * num_ranks
    barrier = threading.Barrier(num_ranks)

    def work(rank: int) -> None:
        own = {name: tensor.clone() for name, tensor in TENSORS.items()}
        change(rank, own)
        model = _Model(own, rank, num_ranks)
        talk = _Talk(rank, values, barrier)
        done[rank] = named_in_files(cast(Any, model), weights, cast(Any, talk), but=but)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(one == done[0] for one in done)
    return done


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_what_is_frozen_and_the_same(num_ranks: int, weights: Path) -> None:
    (found, *_) = found_by(num_ranks, weights)
    assert {one.tensor for one in found.named} == {"a", "b", "codes"}
    assert found.names == {"param/a", "param/b", "param/codes"}
    assert {one.path for one in found.named} == {str(weights)}
    assert {one.tensor: one.size_bytes for one in found.named} == {"a": 140, "b": 22, "codes": 33}
    assert found == found_by(1, weights)[0]


@pytest.mark.parametrize("rank", [0, 1])
def test_one_changed_byte_on_one_rank_is_enough(rank: int, weights: Path) -> None:
    def change(own: int, tensors: dict[str, torch.Tensor]) -> None:
        if own == rank:
            tensors["a"].view(-1)[2 if rank == 0 else 30] += 1e-3

    (found, *_) = found_by(2, weights, change)
    assert found.names == {"param/b", "param/codes"}


def test_another_dtype_is_not_the_same(weights: Path) -> None:
    def change(own: int, tensors: dict[str, torch.Tensor]) -> None:
        tensors["b"] = tensors["b"].half()

    assert found_by(1, weights, change)[0].names == {"param/a", "param/codes"}


def test_what_is_known_is_not_read(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = frozenset({"param/a", "param/b"})
    assert found_by(1, weights, but=known)[0].names == {"param/codes"}
    monkeypatch.setattr(named_weights, "PretrainedWeights", None)  # nothing is opened
    assert found_by(1, weights, but=known | {"param/codes"})[0] == StoredBefore()


@pytest.mark.parametrize("change", ["missing", "no model", "cut off"])
def test_a_file_that_cannot_be_read_has_none(weights: Path, change: str) -> None:
    if change == "missing":
        weights.unlink()
    elif change == "no model":
        save_file({"w": torch.zeros(2)}, weights)
    else:
        weights.write_bytes(weights.read_bytes()[:-8])
    assert found_by(2, weights)[0] == StoredBefore()


def test_the_files_of_weights(tmp_path: Path, weights: Path) -> None:
    assert files_given(None) == ()
    assert files_given(weights) == (weights,)
    assert files_given(str(weights)) == (weights,)
    (tmp_path / "folder").mkdir()
    assert files_given(tmp_path / "folder") == ()
    weights.rename(tmp_path / "folder" / "model.safetensors")
    assert files_given(tmp_path / "folder") == (tmp_path / "folder" / "model.safetensors",)


def test_the_report(weights: Path) -> None:
    (found,) = found_by(1, weights)
    specs = [tensor.spec for tensor in found.tensors]
    (line,) = named_text(found, specs)
    assert line.startswith(f"checkpoints name 3 frozen tensors (195 B) in {weights} and hold no")
    first, second = named_text(found.only({"param/a"}), specs)
    assert "1 frozen tensor (140 B)" in first
    assert second.startswith("2 frozen tensors (55 B) are copied: not in the files of weights=")
    assert named_text(StoredBefore(), specs)[0].startswith("3 frozen tensors (195 B) are copied")
    assert named_text(StoredBefore(), []) == [
        'frozen="name" has no effect: the model has no frozen parameters'
    ]
