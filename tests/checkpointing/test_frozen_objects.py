"""Frozen tensors are written once: an object that every later checkpoint names."""

import copy
import os
import shutil
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

import pytest
import torch

from checkpointing import (
    BackgroundWriter,
    CheckpointStore,
    DamagedCheckpointError,
    FrozenTensors,
    SaveFailedError,
    export_safetensors,
    take_inventory,
)
from checkpointing.format.names import OBJECTS_FOLDER
from checkpointing.saving.stored_before import StoredBefore
from checkpointing.store.store import bytes_of_files


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, kit: ModuleType, tmp_path: Path) -> Any:
    if request.param == "folder":
        return kit.store_at(tmp_path / "checkpoints")
    pytest.importorskip("fsspec")
    return kit.store_at_url(f"memory://{tmp_path.name}/checkpoints")


@pytest.fixture
def local(kit: ModuleType, tmp_path: Path) -> Any:
    return kit.store_at(tmp_path / "checkpoints")


def objects(store: CheckpointStore) -> list[str]:
    path = store.folder / OBJECTS_FOLDER
    return store.files.listdir(path) if store.files.is_dir(path) else []


def objects_of(store: CheckpointStore, step: int) -> frozenset[str]:
    with store.open(step) as reader:
        return reader.manifest.objects


def in_memory_of_another(store: CheckpointStore, writer: BackgroundWriter | None) -> bool:
    """fsspec's memory is of one process: the writer has its own."""
    return writer is not None and str(store.folder).startswith("memory")


def test_they_are_written_once(
    kit: ModuleType, store: CheckpointStore, writer: BackgroundWriter | None
) -> None:
    if in_memory_of_another(store, writer):
        pytest.skip("the writer has a memory of its own")
    stored = FrozenTensors()
    sizes = []
    for step in (1, 2, 3):
        state = kit.frozen_state(step)
        sizes.append(kit.save_frozen(store, step, state, stored, writer=writer).size_bytes)
        kit.assert_holds(store, step, state)
    assert len(objects(store)) == 1
    assert sizes[1] < sizes[0] - 3000  # the base has 3,000 bytes
    assert abs(sizes[2] - sizes[1]) < 20
    with store.open(3) as reader:
        manifest = reader.manifest
        assert manifest.written_bytes == manifest.own_bytes < manifest.size_bytes
    assert all(store.verify(step) == [] for step in (1, 2, 3))


def test_ranks_write_one_object_each_and_another_number_reads_and_reuses_them(
    kit: ModuleType, local: CheckpointStore
) -> None:
    state = kit.frozen_state(1)
    several = [FrozenTensors() for _ in range(3)]
    for step in (1, 2):
        done = kit.run_ranks(
            3, lambda talk, step=step: kit.save_frozen(local, step, state, several[talk.rank], talk)
        )
        assert not any(isinstance(one, BaseException) for one in done), done
    num_objects = len(objects(local))
    assert num_objects > 1
    assert objects_of(local, 1) == objects_of(local, 2)
    # One rank goes on from there: it has other cuts, and writes none of it again.
    alone = FrozenTensors()
    with local.open(2) as reader:
        found = StoredBefore.of_manifest(reader.manifest)
        token = reader.manifest.token
    alone.loaded(token, found, [f for f in kit.fragments_of(state) if f.spec.key == "param"])
    kit.save_frozen(local, 3, state, alone)
    assert len(objects(local)) == num_objects
    kit.assert_holds(local, 3, state)


def test_nothing_is_reused_where_one_rank_knows_of_nothing(
    kit: ModuleType, local: CheckpointStore
) -> None:
    state = kit.frozen_state(1)
    several = [FrozenTensors() for _ in range(2)]
    kit.run_ranks(2, lambda talk: kit.save_frozen(local, 1, state, several[talk.rank], talk))
    several[1].forget()
    kit.run_ranks(2, lambda talk: kit.save_frozen(local, 2, state, several[talk.rank], talk))
    assert not objects_of(local, 1) & objects_of(local, 2)
    kit.assert_holds(local, 2, state)


def test_what_changes_in_place_moves_to_the_shards(kit: ModuleType, local: CheckpointStore) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    kit.save_frozen(local, 1, state, stored)
    before = copy.deepcopy(state)
    with torch.no_grad():
        state[-1][1].mul_(0.99)
    for step in (2, 3):
        kit.save_frozen(local, step, state, stored)
        kit.assert_holds(local, step, state)
        with local.open(step) as reader:
            base = next(t for t in reader.manifest.tensors if t.spec.fqn == "base")
            assert [chunk.file for chunk in base.chunks] == ["r00000.safetensors"]
    kit.assert_holds(local, 1, before)
    assert objects_of(local, 3) == objects_of(local, 1)  # of the other frozen tensor


@pytest.mark.parametrize("way", ["counted", "moved"])
def test_what_only_seems_changed_is_not_written_again(
    kit: ModuleType, local: CheckpointStore, way: str
) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    kit.save_frozen(local, 1, state, stored)
    if way == "counted":
        for spec, tensor in state:
            if spec.key == "param":
                tensor.add_(0)
    else:
        state = copy.deepcopy(state)
    kit.save_frozen(local, 2, state, stored)
    assert objects_of(local, 1) == objects_of(local, 2)


def test_a_counted_change_of_one_element_is_seen(kit: ModuleType, local: CheckpointStore) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    kit.save_frozen(local, 1, state, stored)
    state[-1][1][777] = 5
    kit.save_frozen(local, 2, state, stored)
    kit.assert_holds(local, 2, state)


def test_a_change_that_nothing_counts_fails_one_save_and_is_never_stored_stale(
    kit: ModuleType, local: CheckpointStore, writer: BackgroundWriter | None
) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    kit.save_frozen(local, 1, state, stored, writer=writer)
    base = state[-1][1]
    version = base._version
    base.data[778] = 5  # not among the samples
    assert base._version == version
    with pytest.raises(SaveFailedError, match=r"1 of the frozen tensors \(param/base\) changed"):
        kit.save_frozen(local, 2, state, stored, writer=writer)
    assert local.steps() == [1]
    kit.save_frozen(local, 3, state, stored, writer=writer)
    kit.assert_holds(local, 3, state)


def test_a_change_between_the_copy_and_the_sums_is_seen(
    kit: ModuleType, local: CheckpointStore
) -> None:
    """The object holds what was copied; the sums are of the copy, not of the tensor by then."""
    writer = BackgroundWriter()
    state, stored = kit.frozen_state(1), FrozenTensors()
    before = copy.deepcopy(state)
    frozen = [f for f in kit.fragments_of(state) if f.spec.key == "param"]
    part = stored.divide(frozen, [stored.look(frozen)])
    snapshot = kit.Snapshot(
        step=1,
        specs=kit.specs_of(state),
        fragments=[f for f in kit.fragments_of(state) if f.spec.key != "param"],
        state={},
        created_by={},
        frozen=part,
    )
    save = kit.start_save(local, snapshot, kit.LocalCommunicator(), writer)
    state[-1][1].data[779] = 5
    save.commit()
    save.finish()
    kit.assert_holds(local, 1, before)
    with pytest.raises(SaveFailedError, match="changed"):
        kit.save_frozen(local, 2, state, stored, writer=writer)
    writer.close()


def test_what_was_loaded_from_shards_is_written_to_an_object_once(
    kit: ModuleType, local: CheckpointStore
) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    kit.save_state(local, 1, state)
    frozen = [f for f in kit.fragments_of(state) if f.spec.key == "param"]
    with local.open(1) as reader:
        stored.loaded(reader.manifest.token, StoredBefore.of_manifest(reader.manifest), frozen)
    kit.save_frozen(local, 2, state, stored)
    kit.save_frozen(local, 3, state, stored)
    assert objects_of(local, 1) == frozenset()
    assert objects_of(local, 2) == objects_of(local, 3) != frozenset()


def test_two_stores_have_one_copy_of_them(
    kit: ModuleType, tmp_path: Path, writer: BackgroundWriter | None
) -> None:
    first, second = (kit.store_at(tmp_path / name) for name in ("checkpoints", "best"))
    stored, adopted, state = FrozenTensors(), FrozenTensors(), kit.frozen_state(1)
    kit.save_frozen(first, 1, state, stored, writer=writer)
    assert second.share_objects(first, stored.objects)
    assert second.share_objects(first, stored.objects)  # also where they are there already
    adopted.adopt(stored)
    saved = kit.save_frozen(second, 2, state, adopted, writer=writer)
    with second.open(2) as reader:
        assert saved.size_bytes < reader.manifest.size_bytes - 3000
    assert objects(first) == objects(second)
    path = PurePath(OBJECTS_FOLDER) / objects(first)[0]
    assert os.path.samefile(first.folder / path, second.folder / path)
    both = first.files_going_with([1]) | second.files_going_with([2])
    own = [store.freed_bytes([step]) for store, step in ((first, 1), (second, 2))]
    size_bytes = os.path.getsize(first.folder / path)
    assert bytes_of_files(both, first.files) == sum(own) + size_bytes
    first.delete(1)
    first.sweep()
    kit.assert_holds(second, 2, state)
    assert second.freed_bytes([2]) == own[1] + size_bytes


def test_where_one_rank_has_not_adopted_them_they_are_written(
    kit: ModuleType, tmp_path: Path
) -> None:
    first, second = (kit.store_at(tmp_path / name) for name in ("checkpoints", "best"))
    state = kit.frozen_state(1)
    several = [FrozenTensors() for _ in range(2)]
    kit.run_ranks(2, lambda talk: kit.save_frozen(first, 1, state, several[talk.rank], talk))
    others = [FrozenTensors() for _ in range(2)]
    others[1].adopt(several[1])
    kit.run_ranks(2, lambda talk: kit.save_frozen(second, 1, state, others[talk.rank], talk))
    kit.assert_holds(second, 1, state)
    assert not objects_of(first, 1) & objects_of(second, 1)


def test_an_object_store_shares_none(kit: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    first, second = (kit.store_at_url(f"memory://{tmp_path.name}/{name}") for name in "ab")
    stored = FrozenTensors()
    kit.save_frozen(first, 1, kit.frozen_state(1), stored)
    assert not second.share_objects(first, stored.objects)


def test_a_store_without_frozen_tensors_has_no_objects(
    kit: ModuleType, store: CheckpointStore
) -> None:
    kit.save_state(store, 1, kit.sample_state(1))
    kit.save_state(store, 2, kit.sample_state(2))
    store.delete(1)
    assert objects(store) == []


def test_deleting_removes_what_no_checkpoint_names_and_nothing_else(
    kit: ModuleType, store: CheckpointStore
) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    for step in (1, 2):
        kit.save_frozen(store, step, state, stored)
    stored.forget()
    kit.save_frozen(store, 3, state, stored)
    assert len(objects(store)) == 2
    store.delete(1)
    assert len(objects(store)) == 2
    store.delete(2)
    assert [f"objects/{name}" for name in objects(store)] == sorted(objects_of(store, 3))
    kit.assert_holds(store, 3, state)
    assert store.sweep() == []


def test_a_checkpoint_set_aside_keeps_its_objects(kit: ModuleType, store: CheckpointStore) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    kit.save_frozen(store, 1, state, stored)
    kit.save_frozen(store, 2, state, stored)
    store.set_aside(1)
    store.delete(2)
    store.sweep()
    assert len(objects(store)) == 1


def test_nothing_goes_while_a_manifest_cannot_be_read(
    kit: ModuleType, local: CheckpointStore
) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    for step in (1, 2):
        kit.save_frozen(local, step, state, stored)
        stored.forget()
    Path(local.path(1) / "manifest.json").write_bytes(b"{")
    local.delete(2)
    local.sweep()
    assert len(objects(local)) == 2


def test_what_a_save_in_flight_names_is_spared(kit: ModuleType, local: CheckpointStore) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    kit.save_frozen(local, 1, state, stored)
    kit.save_state(local, 2, kit.sample_state(2))
    folders = local.withdraw(1, spared=stored.objects)
    assert [path.name[:6] for path in folders] == [".trash"]


def test_an_object_of_a_save_that_died_is_a_leftover(
    kit: ModuleType, store: CheckpointStore
) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    kit.save_frozen(store, 1, state, stored)
    died = f"objects/{'ab' * 8}-r00000.safetensors"
    fd = store.files.create(store.folder / died)
    store.files.write_all(fd, memoryview(b"half"), 0)
    store.files.fsync(fd)
    store.files.close(fd)
    assert take_inventory(store).leftovers == (died,)
    assert store.sweep() == [died]
    kit.assert_holds(store, 1, state)


def test_a_lost_object_names_who_needs_it_and_who_does_not(
    kit: ModuleType, local: CheckpointStore
) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    kit.save_state(local, 1, state)
    for step in (2, 3):
        kit.save_frozen(local, step, state, stored)
    (name,) = objects(local)
    Path(local.folder / OBJECTS_FOLDER / name).unlink()
    message = rf"{name}.*steps 3, 2; the newest checkpoint without it is step 1"
    with pytest.raises(DamagedCheckpointError, match=message):
        local.open(3)
    assert "steps 3, 2" in local.verify(2)[0]
    kit.assert_holds(local, 1, state)


def test_a_lost_object_fails_the_save_that_names_it_and_the_next_one_writes_it(
    kit: ModuleType, local: CheckpointStore
) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    kit.save_frozen(local, 1, state, stored)
    shutil.rmtree(local.folder / OBJECTS_FOLDER)
    with pytest.raises(SaveFailedError, match="objects"):
        kit.save_frozen(local, 2, state, stored)
    assert stored.is_doubtful
    assert not local.has_objects(stored.objects)
    stored.forget()
    kit.save_frozen(local, 3, state, stored)
    kit.assert_holds(local, 3, state)


def test_every_flipped_bit_of_an_object_is_seen(kit: ModuleType, local: CheckpointStore) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    for step in (1, 2):
        kit.save_frozen(local, step, state, stored)
    (name,) = objects(local)
    path = Path(local.folder / OBJECTS_FOLDER / name)
    content = path.read_bytes()
    for at in range(0, len(content), 97):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        (line,) = local.verify(2)
        assert "do not match their checksum" in line
        assert "steps 2, 1; the newest checkpoint without it does not exist" in line
    with local.open(2) as reader, pytest.raises(DamagedCheckpointError, match="frozen tensors of"):
        reader.read("base", "param", 0, 1500)


def test_an_export_has_them(kit: ModuleType, local: CheckpointStore, tmp_path: Path) -> None:
    state, stored = kit.frozen_state(1), FrozenTensors()
    for step in (1, 2):
        kit.save_frozen(local, step, state, stored)
    with local.open(2) as reader:
        export_safetensors(reader, tmp_path / "model.safetensors", metadata={})
    from safetensors.torch import load_file

    found = load_file(tmp_path / "model.safetensors")
    assert torch.equal(found["base"], state[-1][1])


def test_a_writer_removes_what_a_deletion_leaves_to_it(
    kit: ModuleType, local: CheckpointStore
) -> None:
    stored = FrozenTensors()
    kit.save_frozen(local, 1, kit.frozen_state(1), stored)
    stored.forget()
    writer = BackgroundWriter()
    kit.save_frozen(local, 2, kit.frozen_state(2), stored, writer=writer)
    paths = local.withdraw(1)
    assert [path.parent.name for path in paths] == ["checkpoints", "objects"]
    for path in [*paths, *paths]:  # what is gone already is gone
        writer.remove(path)
    kit.save_frozen(local, 3, kit.frozen_state(3), stored, writer=writer)
    assert writer.not_removed() == []
    writer.close()
    assert not any(Path(path).exists() for path in paths)
    kit.assert_holds(local, 3, kit.frozen_state(3))
