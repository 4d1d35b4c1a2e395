"""Faults that change a run folder while no process uses it."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from checkpointing.format.manifest import MANIFEST_NAME
from checkpointing.format.names import new_token, step_folder, tmp_folder

from .disturb import Absent, newest_checkpoint

Damage = Callable[[Path], None]
"""Given the run folder."""
_FAR_STEP = 99_999_999


def bit_flipped(run_dir: Path) -> None:
    """Flip one bit in the middle of a shard of the newest checkpoint."""
    shard = _shards(run_dir)[0]
    middle = shard.stat().st_size // 2
    with shard.open("r+b") as file:
        file.seek(middle)
        (byte,) = file.read(1)
        file.seek(middle)
        file.write(bytes([byte ^ 0x10]))


def manifest_cut(run_dir: Path) -> None:
    """Cut the newest checkpoint's manifest in half."""
    path = newest_checkpoint(run_dir / "checkpoints") / MANIFEST_NAME
    os.truncate(path, path.stat().st_size // 2)


def shard_removed(run_dir: Path) -> None:
    """Remove a shard of the newest checkpoint."""
    _shards(run_dir)[-1].unlink()


def newest_removed(run_dir: Path) -> None:
    """Remove the newest checkpoint."""
    shutil.rmtree(newest_checkpoint(run_dir / "checkpoints"))


def all_removed(run_dir: Path) -> None:
    """Remove all checkpoints."""
    shutil.rmtree(run_dir / "checkpoints")


def leftover_made(run_dir: Path) -> None:
    """Leave what a save that was cut short leaves, and an empty folder of a later step."""
    leftover = run_dir / "checkpoints" / tmp_folder(_FAR_STEP, new_token())
    leftover.mkdir(parents=True)
    (leftover / "rank-00000.safetensors").write_bytes(b"\0" * 100)
    (run_dir / "checkpoints" / step_folder(_FAR_STEP)).mkdir()


def metrics_cut(run_dir: Path) -> None:
    """Cut off the last line of metrics.jsonl in its middle."""
    _cut_last_line(run_dir / "metrics.jsonl")


def events_cut(run_dir: Path) -> None:
    """Cut off the last line of events.jsonl in its middle."""
    _cut_last_line(run_dir / "events.jsonl")


def lock_left(run_dir: Path) -> None:
    """Leave the lock file of a process that is gone."""
    owner = {"host": socket.gethostname(), "pid": 2**22 + 1, "word": new_token()}
    (run_dir / ".lock").write_text(json.dumps(owner))


def _cut_last_line(path: Path) -> None:
    text = path.read_bytes() if path.exists() else b""
    if text.count(b"\n") < 2:
        raise Absent(f"{path.name} had no two lines yet")
    begin = text.rstrip(b"\n").rfind(b"\n") + 1
    os.truncate(path, begin + (len(text) - begin) // 2)


def _shards(run_dir: Path) -> list[Path]:
    newest = newest_checkpoint(run_dir / "checkpoints")
    return sorted(one for one in newest.iterdir() if one.suffix == ".safetensors")
