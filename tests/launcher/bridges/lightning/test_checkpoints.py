"""Which of Lightning's checkpoints a run resumes from."""

import zipfile
from pathlib import Path

import pytest

from launcher.bridges.lightning.checkpoints import newest_whole, publish


def checkpoint(path: Path, *, cut: bool = False) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", b"1" * 1000)
    if cut:
        path.write_bytes(path.read_bytes()[:-50])
    return path


def test_the_highest_step_that_is_whole_counts(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert newest_whole([ours, theirs]) is None
    checkpoint(ours / "step=7.ckpt")
    newest = checkpoint(theirs / "epoch=1-step=10.ckpt")
    checkpoint(theirs / "epoch=1-step=12.ckpt", cut=True)
    checkpoint(ours / ".unfinished-step=20.ckpt")
    checkpoint(ours / "last.ckpt")
    assert newest_whole([ours, theirs]) == (10, newest)
    same = checkpoint(ours / "step=10.ckpt")
    assert newest_whole([ours, theirs]) == (10, same)


def test_a_checkpoint_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "lightning"
    checkpoint(folder / "step=3.ckpt")
    size, _ = publish(checkpoint(folder / ".unfinished-step=7.ckpt"), folder / "step=7.ckpt")
    assert size > 1000
    assert [path.name for path in folder.iterdir()] == ["step=7.ckpt"]
    with pytest.raises(OSError, match="is cut off"):
        publish(checkpoint(folder / ".unfinished-step=9.ckpt", cut=True), folder / "step=9.ckpt")
    assert (folder / "step=7.ckpt").exists()
