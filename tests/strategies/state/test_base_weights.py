"""A run with frozen parameters keeps which weights it began with; others are refused later."""

import os
import threading
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from checkpointing import JSON, LocalCommunicator
from strategies import ConfigError
from strategies.state import base_weights
from strategies.state.base_weights import base_of, difference, require_same_base


def weights(path: Path, value: float = 1.0) -> Path:
    path.parent.mkdir(exist_ok=True)
    save_file({"w": torch.full((4,), value)}, path)
    return path


def sharded(folder: Path, *values: float) -> Path:
    folder.mkdir()
    names = [f"model-{n}.safetensors" for n in range(len(values))]
    for name, value in zip(names, values, strict=True):
        save_file({name: torch.full((4,), value)}, folder / name)
    index = ",".join(f'"{name}": "{name}"' for name in names)
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{index}}}}}')
    return folder


def known(path: Path) -> dict[str, Any]:
    found = base_of(path, LocalCommunicator())
    assert found is not None
    return found


def resume(saved: dict[str, Any] | None, path: Path | None) -> None:
    require_same_base(saved, path, LocalCommunicator(), "runs/a")


@pytest.fixture(name="num_hashed")
def _num_hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    hashed: list[str] = []
    real = file_digest

    def digest(file: Any, kind: str) -> Any:
        hashed.append(Path(file.name).name)
        return real(file, kind)

    monkeypatch.setattr(base_weights, "file_digest", digest)
    return hashed


def test_the_same_file_is_accepted_and_not_read_again(
    tmp_path: Path, num_hashed: list[str]
) -> None:
    path = weights(tmp_path / "base.safetensors")
    saved = known(path)
    resume(saved, path)
    assert num_hashed == ["base.safetensors"]


def test_a_moved_file_is_accepted_and_read(tmp_path: Path, num_hashed: list[str]) -> None:
    saved = known(weights(tmp_path / "base.safetensors"))
    moved = tmp_path / "elsewhere" / "other.safetensors"
    resume(saved, weights(moved))
    assert num_hashed == ["base.safetensors", "other.safetensors"]
    os.utime(moved, ns=(5, 5))
    resume(saved, moved)


@pytest.mark.parametrize("other", ["base.safetensors", "other.safetensors"])
def test_another_file_is_refused_with_both_checksums(tmp_path: Path, other: str) -> None:
    first = weights(tmp_path / "base.safetensors")
    saved = known(first)
    second = weights(tmp_path / other, 2.0)
    os.utime(second, ns=(5, 5))
    with pytest.raises(ConfigError) as refused:
        resume(saved, second)
    said = str(refused.value)
    ours, theirs = (one["files"][0]["sha256"][:16] for one in (saved, known(second)))
    assert f"{first} (SHA-256 {ours}...) is now {second} (SHA-256 {theirs}...)" in said
    assert "may have been moved" in said
    assert "--run-dir" in said


def test_what_is_not_there_is_not_compared(tmp_path: Path) -> None:
    path = weights(tmp_path / "base.safetensors")
    saved = known(path)
    path.unlink()
    for given in (path, tmp_path, None):
        resume(saved, given)
    resume(None, weights(path, 2.0))
    assert base_of(tmp_path / "missing", LocalCommunicator()) is None


def test_one_changed_shard_of_a_folder_is_named(tmp_path: Path) -> None:
    saved = known(sharded(tmp_path / "a", 1.0, 2.0, 3.0))
    resume(saved, sharded(tmp_path / "b", 1.0, 2.0, 3.0))
    with pytest.raises(ConfigError, match=r"a/model-1.safetensors .* is now .*c/model-1"):
        resume(saved, sharded(tmp_path / "c", 1.0, 9.0, 3.0))
    with pytest.raises(ConfigError, match=r"a/model-2.safetensors .* is now no other file"):
        resume(saved, sharded(tmp_path / "d", 1.0, 2.0))


SAVED = {"path": "/a", "files": [{"name": "x", "sha256": "1" * 64}]}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([{"name": "y", "sha256": "1" * 64}], None),
        ([{"name": "x", "sha256": "2" * 64}], f"/a/x (SHA-256 {'1' * 16}...) is now /b/x"),
        ([], "is now no other file in its place"),
        ([{"name": "x", "sha256": "1" * 64}] * 2, "none of their files is now /b/x"),
    ],
)
def test_difference(files: list[Any], said: str | None) -> None:
    found = difference(SAVED, {"path": "/b", "files": files})
    assert found is None if said is None else said in (found or "")


class _Threads:
    """The ranks of one process."""

    def __init__(self, rank: int, values: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.world_size = rank, len(values)
        self._values, self._barrier = values, barrier

    def gather(self, value: JSON) -> list[JSON] | None:
        self._values[self.rank] = value
        self._barrier.wait(20)
        found = list(self._values)
        self._barrier.wait(20)
        return found if self.rank == 0 else None

    def broadcast(self, value: JSON) -> JSON:
        gathered = self.gather(value)
        self._values[0] = gathered[0] if gathered else self._values[0]
        self._barrier.wait(20)
        found: JSON = self._values[0]
        self._barrier.wait(20)
        return found


def in_ranks(num_ranks: int, do: Callable[[_Threads], Any]) -> list[Any]:
    values: list[Any] = [None] * num_ranks
    done: list[Any] = [None] * num_ranks
    barrier = threading.Barrier(num_ranks)

    def work(rank: int) -> None:
        done[rank] = do(_Threads(rank, values, barrier))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return done


def test_the_ranks_share_the_files(tmp_path: Path, num_hashed: list[str]) -> None:
    folder = sharded(tmp_path / "a", 1.0, 2.0, 3.0)
    found = in_ranks(2, lambda talk: base_of(folder, talk))
    assert sorted(num_hashed) == [f"model-{n}.safetensors" for n in range(3)]
    assert found == [known(folder)] * 2


def test_a_file_that_one_rank_cannot_read_leaves_it_unknown_on_all(tmp_path: Path) -> None:
    folder, other = sharded(tmp_path / "a", 1.0, 2.0), sharded(tmp_path / "b", 1.0)
    assert in_ranks(2, lambda talk: base_of((folder, other)[talk.rank], talk)) == [None] * 2
