"""Complete, or invisible: which of a Trainer's folders are resumed from."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.bridges.hugging_face.checkpoints import (
    SEAL,
    STATE,
    amend,
    damage,
    newest_complete,
    publish,
    read_seal,
    seal,
    step_of,
)

Spoil = Callable[[Path], None]


def safetensors(size: int, *, cut: int = 0) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + b"\0" * size
    return whole[: len(whole) - cut]


def written(folder: Path, step: int) -> Path:
    """A folder as Trainer leaves it, with files as whole as their formats show."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors(100))
    with zipfile.ZipFile(folder / "optimizer.pt", "w") as file:
        file.writestr("data", b"1" * 1000)
    (folder / STATE).write_text(json.dumps({"global_step": step}))
    return folder


def sealed(output: Path, step: int) -> Path:
    aside = written(output / ".unfinished" / f"checkpoint-{step}", step)
    seal(aside, step, {"world_size": 2})
    publish(aside, output / f"checkpoint-{step}")
    return output / f"checkpoint-{step}"


def cut(name: str) -> Spoil:
    def damage_it(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:-30])

    return damage_it


def removed(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def marked(folder: Path) -> None:
    (folder / "checkpoint-is-incomplete.txt").write_text("in progress")


def of_another_step(folder: Path) -> None:
    (folder / STATE).write_text(json.dumps({"global_step": 1}))


def without_a_shard(folder: Path) -> None:
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (cut("model.safetensors"), "model.safetensors is cut off"),
        (cut("optimizer.pt"), "optimizer.pt is cut off"),
        (cut(STATE), f"{STATE} is missing or cut off"),
        (removed(STATE), f"{STATE} is missing or cut off"),
        (marked, "it holds checkpoint-is-incomplete.txt"),
        (of_another_step, f"{STATE} is of another step"),
        (without_a_shard, "model-00001-of-00002.safetensors is missing"),
    ],
)
def test_a_folder_that_was_not_finished_is_passed_over(
    tmp_path: Path, spoil: Spoil, why: str
) -> None:
    written(tmp_path / "checkpoint-5", 5)
    newer = written(tmp_path / "checkpoint-10", 10)
    assert newest_complete(tmp_path, pytest.fail) == newer
    spoil(newer)
    said: list[str] = []
    assert newest_complete(tmp_path, said.append) == tmp_path / "checkpoint-5"
    assert said == [f"{newer} is not complete ({why}): it is not used."]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", STATE])
@pytest.mark.parametrize("spoil", [cut, removed])
def test_a_sealed_checkpoint_that_lost_something_is_passed_over(
    tmp_path: Path, name: str, spoil: Callable[[str], Spoil]
) -> None:
    sealed(tmp_path, 5)
    newer = sealed(tmp_path, 10)
    assert newest_complete(tmp_path, pytest.fail) == newer
    spoil(name)(newer)
    assert damage(newer) == f"{name} is missing or cut off"
    assert newest_complete(tmp_path, lambda text: None) == tmp_path / "checkpoint-5"


def test_nothing_is_seen_before_the_rename(tmp_path: Path) -> None:
    aside = written(tmp_path / ".unfinished" / "checkpoint-5", 5)
    assert newest_complete(tmp_path, pytest.fail) is None
    assert seal(aside, 5, {}) > 1000
    assert newest_complete(tmp_path, pytest.fail) is None
    publish(aside, tmp_path / "checkpoint-5")
    assert newest_complete(tmp_path, pytest.fail) == tmp_path / "checkpoint-5"
    assert not (tmp_path / ".unfinished").exists()


def test_what_is_not_whole_gets_no_seal(tmp_path: Path) -> None:
    aside = written(tmp_path / "checkpoint-5", 5)
    cut("optimizer.pt")(aside)
    with pytest.raises(OSError, match=r"not complete: optimizer\.pt is cut off"):
        seal(aside, 5, {})
    assert not (aside / SEAL).exists()


def test_a_step_that_is_saved_again_takes_the_place_of_the_former(tmp_path: Path) -> None:
    sealed(tmp_path, 5)
    (tmp_path / "checkpoint-5" / "old").write_text("")
    assert not (sealed(tmp_path, 5) / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_a_seal_is_amended(tmp_path: Path) -> None:
    folder = sealed(tmp_path, 5)
    amend(folder, owes_evaluation=True)
    found = read_seal(folder)
    assert found is not None
    assert (found["owes_evaluation"], found["world_size"], found["step"]) == (True, 2, 5)
    assert damage(folder) is None


@pytest.mark.parametrize(
    ("name", "step"), [("checkpoint-12", 12), ("checkpoint-x", -1), ("tmp-checkpoint-1", -1)]
)
def test_the_step_in_a_name(tmp_path: Path, name: str, step: int) -> None:
    (tmp_path / name).mkdir()
    assert step_of(tmp_path / name) == step
