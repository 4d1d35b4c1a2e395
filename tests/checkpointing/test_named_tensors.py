"""Frozen tensors that a checkpoint names in a file of others: found, verified, never deleted."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpointing import (
    JSON,
    BackgroundWriter,
    CheckpointStore,
    FrozenTensors,
    StoredBefore,
    different_values,
    export_safetensors,
    take_inventory,
)
from checkpointing.errors import NamedFileError
from checkpointing.format.manifest import Chunk, Manifest, NamedTensor, StoredTensor
from checkpointing.format.manifest_json import encode_manifest, parse_manifest
from checkpointing.format.strict_json import canonical_text
from checkpointing.storage.checksum import crc32
from checkpointing.store.inventory import own_bytes

BLOCK = 1024


def base_file(path: Path, state: Any, *, reverse: bool = False) -> Path:
    """Write the frozen tensors of a state as others do, each under a name of its own there."""
    tensors = {f"model.{s.fqn}": (s.dtype, t) for s, t in state if s.key == "param"}
    path.parent.mkdir(exist_ok=True)
    ordered = dict(reversed(tensors.items())) if reverse else tensors
    header: dict[str, Any] = {}
    content = b""
    for name, (dtype, tensor) in ordered.items():
        raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        at = len(content)
        offsets = [at, at + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        content += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def named_in(path: Path, state: Any) -> StoredBefore:
    tensors, named = [], []
    for spec, tensor in state:
        if spec.key != "param":
            continue
        raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        one = NamedTensor.of(
            path=str(path),
            tensor=f"model.{spec.fqn}",
            size_bytes=len(raw),
            block_bytes=BLOCK,
            crc32=tuple(crc32(raw[at : at + BLOCK]) for at in range(0, len(raw), BLOCK)),
        )
        named.append(one)
        chunk = Chunk(file=one.name, start=0, end=spec.numel, offset=0)
        tensors.append(StoredTensor(spec=spec, chunks=(chunk,)))
    return StoredBefore(tensors=tuple(tensors), named=tuple(named))


def frozen_of(kit: ModuleType, state: Any) -> list[Any]:
    return [f for f in kit.fragments_of(state) if f.spec.key == "param"]


@pytest.fixture
def base(kit: ModuleType, tmp_path: Path) -> Path:
    return base_file(tmp_path / "models" / "base.safetensors", kit.frozen_state(1))


@pytest.fixture
def stored(kit: ModuleType, base: Path) -> FrozenTensors:
    """Of a run that began with the file."""
    state, stored = kit.frozen_state(1), FrozenTensors()
    stored.loaded("ab" * 8, named_in(base, state), frozen_of(kit, state))
    return stored


@pytest.fixture
def store(kit: ModuleType, tmp_path: Path) -> CheckpointStore:
    found: CheckpointStore = kit.store_at(tmp_path / "checkpoints")
    return found


def manifest_of(store: CheckpointStore, step: int) -> Manifest:
    with store.open(step) as reader:
        return reader.manifest


def test_nothing_of_it_is_written_and_all_of_it_is_read(
    kit: ModuleType,
    store: CheckpointStore,
    stored: FrozenTensors,
    base: Path,
    writer: BackgroundWriter | None,
) -> None:
    named_bytes = named_in(base, kit.frozen_state(1)).named
    for step in (1, 2, 3):
        state = kit.frozen_state(step)
        saved = kit.save_frozen(store, step, state, stored, writer=writer)
        kit.assert_holds(store, step, state)
        manifest = manifest_of(store, step)
        assert manifest.named_bytes == sum(one.size_bytes for one in named_bytes) > 3000
        assert manifest.size_bytes == manifest.own_bytes + manifest.named_bytes
        assert manifest.written_bytes == manifest.own_bytes
        assert saved.size_bytes < manifest.own_bytes + 5000  # and the manifest
        assert manifest.named_paths == (str(base),)
    assert not (Path(store.folder) / "objects").exists()
    assert all(store.verify(step) == [] for step in (1, 2, 3))


def test_both_sizes_and_what_a_deletion_frees(
    kit: ModuleType, store: CheckpointStore, stored: FrozenTensors, base: Path
) -> None:
    for step in (1, 2):
        kit.save_frozen(store, step, kit.frozen_state(step), stored)
    manifest = manifest_of(store, 2)
    assert own_bytes(store, take_inventory(store))[2] == manifest.own_bytes < manifest.size_bytes
    assert store.freed_bytes([1, 2]) == 2 * manifest.own_bytes
    assert base not in store.files_going_with([1, 2])
    for step in (1, 2):
        store.delete(step)
    store.sweep()
    assert base.exists()


def test_a_tensor_that_changes_is_copied(
    kit: ModuleType, store: CheckpointStore, stored: FrozenTensors
) -> None:
    state = kit.frozen_state(1)
    stored.loaded("cd" * 8, stored.stored, frozen_of(kit, state))
    with torch.no_grad():
        state[-1][1].mul_(0.99)
    kit.save_frozen(store, 1, state, stored)
    kit.assert_holds(store, 1, state)
    assert len(manifest_of(store, 1).named) == 1  # the other frozen tensor


def test_it_is_found_where_it_lies_now(
    kit: ModuleType, store: CheckpointStore, stored: FrozenTensors, base: Path, tmp_path: Path
) -> None:
    state = kit.frozen_state(1)
    kit.save_frozen(store, 1, state, stored)
    elsewhere = base_file(tmp_path / "moved" / "other.safetensors", state, reverse=True)
    assert elsewhere.read_bytes() != base.read_bytes()
    base.unlink()
    store.weight_files = (tmp_path / "none.safetensors", elsewhere)
    kit.assert_holds(store, 1, state)
    assert store.verify(1) == []
    (tmp_path / "link.safetensors").symlink_to(elsewhere)  # as in a download cache
    store.weight_files = (tmp_path / "link.safetensors",)
    kit.assert_holds(store, 1, state)


def overwritten(base: Path, change: str) -> None:
    content = bytearray(base.read_bytes())
    if change == "missing":
        base.unlink()
    elif change == "cut off":
        base.write_bytes(content[:-100])
    elif change == "damaged":
        content[-7] ^= 1
        base.write_bytes(content)
    elif change == "no header":
        base.write_bytes(b"nothing of the kind")
    elif change == "a folder":
        base.unlink()
        base.mkdir()
    elif change == "others":
        save_file({"w": torch.zeros(3)}, base)
    else:
        tensors = load_file(base)
        save_file({name: t[:-1].clone() for name, t in tensors.items()}, base)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("missing", "cannot be read: No such file"),
        ("cut off", "are missing: it was cut off"),
        ("damaged", "(CRC-32 "),
        ("no header", "says that its header has"),
        ("a folder", "is not a regular file"),
        ("others", "has no tensor of this name"),
        ("shorter", "bytes for it instead of"),
    ],
)
def test_what_is_wrong_with_it(
    kit: ModuleType,
    store: CheckpointStore,
    stored: FrozenTensors,
    base: Path,
    change: str,
    said: str,
) -> None:
    state = kit.frozen_state(1)
    for step in (1, 2):
        kit.save_frozen(store, step, state, stored)
    plain = [(s, t) for s, t in state if s.key != "param"]
    kit.save_frozen(store, 3, plain, FrozenTensors())
    overwritten(base, change)
    needs = (
        f"{base} is named, not copied, by the checkpoints of steps 2, 1; the newest checkpoint "
        "without it is step 3. Put the file back as it was, or pass where it still is so: weights= "
        "to resume, --weights to `relaunch checkpoint`"
    )
    with pytest.raises(NamedFileError) as refused:
        kit.assert_holds(store, 2, state)
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"{base}: model.")
    assert needs in str(refused.value)
    lines = store.verify(2)
    assert said in "".join(lines)
    assert "model." in lines[0]
    assert needs in lines[-1]
    kit.assert_holds(store, 3, plain)
    found = take_inventory(store).found
    does_open = change in ("cut off", "damaged")
    assert [one.manifest is not None for one in found] == [True, does_open, does_open]


def test_diff_and_export(
    kit: ModuleType, store: CheckpointStore, stored: FrozenTensors, tmp_path: Path
) -> None:
    state = kit.frozen_state(1)
    for step in (1, 2):
        kit.save_frozen(store, step, state, stored)
    with store.open(1) as left, store.open(2) as right:
        assert all(left.shares(right, s.fqn, s.key) for s, _ in state if s.key == "param")
        assert list(different_values(left, right)) == []
        export_safetensors(left, tmp_path / "out.safetensors", keys=("param",), metadata={})
    found = load_file(tmp_path / "out.safetensors")
    for spec, tensor in state:
        if spec.key == "param":
            assert torch.equal(found[spec.fqn].view(-1), tensor.view(-1))


def test_a_copy_of_the_checkpoint_reads_it_too(
    kit: ModuleType, store: CheckpointStore, stored: FrozenTensors, tmp_path: Path
) -> None:
    state = kit.frozen_state(1)
    kit.save_frozen(store, 1, state, stored)
    copy = kit.store_at(tmp_path / "copy")
    shutil.copytree(store.folder, copy.folder)
    kit.assert_holds(copy, 1, state)


def test_in_an_object_store(kit: ModuleType, stored: FrozenTensors, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    far = kit.store_at_url(f"memory://{tmp_path.name}/checkpoints")
    state = kit.frozen_state(1)
    kit.save_frozen(far, 1, state, stored)
    kit.assert_holds(far, 1, state)


def test_best_needs_no_link(
    kit: ModuleType, store: CheckpointStore, stored: FrozenTensors, tmp_path: Path
) -> None:
    best = kit.store_at(tmp_path / "best")
    assert best.share_objects(store, stored.objects)
    beside = FrozenTensors()
    beside.adopt(stored)
    kit.save_frozen(best, 1, kit.frozen_state(1), beside)
    assert sorted(os.listdir(best.folder)) == ["step-00000001"]


def test_a_resume_names_it_where_it_lies_now_or_takes_what_is_in_objects_alone(
    kit: ModuleType, store: CheckpointStore, stored: FrozenTensors, base: Path, tmp_path: Path
) -> None:
    state = kit.frozen_state(1)
    kit.save_frozen(store, 1, state, stored)
    before = StoredBefore.of_manifest(manifest_of(store, 1))
    assert before.in_objects() == StoredBefore()
    moved = tmp_path / "moved.safetensors"
    base.rename(moved)
    now = before.with_paths(lambda one: str(moved))
    assert now.names == before.names
    again = FrozenTensors()
    again.loaded("ef" * 8, now, frozen_of(kit, state))
    kit.save_frozen(store, 2, state, again)
    assert manifest_of(store, 2).named_paths == (str(moved),)
    kit.assert_holds(store, 2, state)
    assert now.with_also(before).names == now.names
    assert {one.path for one in now.with_also(before).named} == {str(base)}


def sound(kit: ModuleType, store: CheckpointStore, stored: FrozenTensors) -> Manifest:
    kit.save_frozen(store, 1, kit.frozen_state(1), stored)
    return manifest_of(store, 1)


def test_only_a_checkpoint_that_names_one_needs_the_new_version(
    kit: ModuleType, store: CheckpointStore, stored: FrozenTensors
) -> None:
    manifest = sound(kit, store, stored)
    text = encode_manifest(manifest)
    assert b'"version":4' in text
    assert parse_manifest(text) == manifest
    kit.save_frozen(store, 2, kit.frozen_state(1), FrozenTensors())
    assert b'"version":3' in encode_manifest(manifest_of(store, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "base.safetensors"}, "which is not absolute"),
        ({"size_bytes": 4}, "checksums for"),
        ({"size_bytes": 5, "crc32": (1,)}, "has 5 bytes, and more is used"),
        ({"crc32": (1 << 32,) * 3}, "more than 32 bits"),
    ],
)
def test_a_record_that_cannot_be_is_refused(
    kit: ModuleType,
    store: CheckpointStore,
    stored: FrozenTensors,
    change: dict[str, Any],
    said: str,
) -> None:
    manifest = sound(kit, store, stored)
    large = max(manifest.named, key=lambda one: one.size_bytes)
    named = tuple(replace(one, **change) if one is large else one for one in manifest.named)
    with pytest.raises(ValueError, match=said):
        encode_manifest(replace(manifest, named=named))


def test_a_record_that_nothing_uses_is_refused(
    kit: ModuleType, store: CheckpointStore, stored: FrozenTensors
) -> None:
    manifest = sound(kit, store, stored)
    more = replace(manifest.named[0], name="/x#y", path="/x", tensor="y")
    with pytest.raises(ValueError, match="no tensor lies there"):
        encode_manifest(replace(manifest, named=(*manifest.named, more)))


def test_what_another_process_is_given(stored: FrozenTensors) -> None:
    value: JSON = json.loads(canonical_text(stored.stored.encode()))
    assert StoredBefore.parse(value) == stored.stored
