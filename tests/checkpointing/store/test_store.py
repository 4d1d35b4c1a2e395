import errno

import pytest

from checkpointing import NoCheckpointError, SaveFailedError


def test_steps_are_newest_first_and_only_exact_names(kit, tmp_path):
    store = kit.store_at(tmp_path)
    for step in (3, 100, 20):
        kit.save_state(store, step, kit.sample_state())
    for name in (
        "step-abc",
        "step-1",
        "step-000000001",
        "step-00000007x",
        "step-\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661",
        ".tmp-step-00000008-0123456789abcdef",
        "best",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000009").write_text("a file")
    (tmp_path / "step-00000010").symlink_to(store.path(3))
    assert store.steps() == [100, 20, 3]


def test_steps_of_more_digits(kit, tmp_path):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 123_456_789, kit.sample_state())
    assert store.steps() == [123_456_789]


def test_a_missing_folder_has_no_steps(kit, tmp_path):
    store = kit.store_at(tmp_path / "none")
    assert store.steps() == []
    assert store.sweep() == []
    assert not (tmp_path / "none").exists()


def test_a_missing_step_is_told_with_those_that_exist(kit, tmp_path):
    store = kit.store_at(tmp_path)
    for operation in (store.open, store.delete, store.verify):
        with pytest.raises(NoCheckpointError, match=r"no step-00000400; its newest steps: none"):
            operation(400)
    for step in range(7):
        kit.save_state(store, step, kit.sample_state())
    with pytest.raises(NoCheckpointError, match=r"newest steps: 6, 5, 4, 3, 2, \.\.\."):
        store.open(400)


def test_a_folder_without_a_manifest_is_listed_and_damaged(kit, tmp_path):
    (tmp_path / "step-00000001").mkdir()
    store = kit.store_at(tmp_path)
    assert store.steps() == [1]
    assert "manifest.json: cannot be read" in store.verify(1)[0]


def test_delete_removes_one_step(kit, tmp_path):
    files = kit.WatchedFiles()
    store = kit.store_at(tmp_path, files)
    kit.save_state(store, 1, kit.sample_state())
    kit.save_state(store, 2, kit.sample_state())
    files.log.clear()
    store.delete(1)
    assert store.steps() == [2]
    assert kit.leftovers(tmp_path) == []
    assert [n for n in files.names if n not in ("is_dir", "exists")][:3] == [
        "rename",
        "fsync_dir",
        "rmtree",
    ]


@pytest.mark.parametrize("operation", ["rename", "fsync_dir", "rmtree"])
def test_a_failed_deletion_is_told(kit, tmp_path, operation):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state())

    def refuse(number, name):
        if name == operation:
            raise OSError(errno.EIO, "injected")

    with pytest.raises(SaveFailedError, match=r"step-00000001 could not be deleted.*injected"):
        kit.store_at(tmp_path, kit.WatchedFiles(before=refuse)).delete(1)


def test_sweep_removes_leftovers_and_nothing_else(kit, tmp_path):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state())
    stale = [
        ".tmp-probe-00",
        ".tmp-step-00000002-0123456789abcdef",
        ".trash-step-00000001-0123456789abcdef",
    ]
    others = [".tmp-mine", ".trash-step-2-00", "tmp-step-00000002-0123456789abcdef", ".git"]
    for name in [*stale, *others]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "r00000.safetensors").write_text("half")
    (tmp_path / ".tmp-step-00000003-0123456789abcdef").write_text("a file, so not ours")
    assert store.sweep() == stale
    assert all((tmp_path / name).is_dir() for name in others)
    assert (tmp_path / ".tmp-step-00000003-0123456789abcdef").exists()
    kit.assert_holds(store, 1, kit.sample_state())


def test_check_writable_leaves_nothing(kit, tmp_path):
    kit.store_at(tmp_path / "a" / "b").check_writable()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_check_writable_tells_every_error(kit, tmp_path):
    files = kit.WatchedFiles()
    kit.store_at(tmp_path, files).check_writable()
    assert {"mkdir", "create", "pwrite", "fsync", "close", "rmtree"} <= set(files.names)
    for number in range(len(files.names)):
        store = kit.store_at(tmp_path, kit.failing_files(number, errno.EDQUOT))
        with pytest.raises(SaveFailedError, match=f"cannot save checkpoints in {tmp_path}.*inj"):
            store.check_writable()


def test_a_file_in_the_place_of_the_folder(kit, tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(SaveFailedError, match="File exists"):
        kit.store_at(tmp_path / "store").check_writable()


def test_block_size_has_bounds(kit, tmp_path):
    for block_bytes in (0, (1 << 28) + 1):
        with pytest.raises(ValueError, match=f"block_bytes={block_bytes}"):
            kit.CheckpointStore(tmp_path, block_bytes=block_bytes)


def test_what_is_set_aside_is_kept_and_no_longer_a_step(kit, tmp_path):
    store = kit.store_at(tmp_path)
    for step in (1, 2):
        kit.save_state(store, step, kit.sample_state())
    aside = store.set_aside(2)
    assert store.steps() == [1]
    assert (aside / "manifest.json").exists()
    assert store.sweep() == []
    assert aside.exists()
    with pytest.raises(NoCheckpointError):
        store.set_aside(2)


def test_a_pin_keeps_a_checkpoint_until_it_is_taken_away(kit, tmp_path):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state())
    assert not store.is_pinned(1)
    for _ in range(2):
        store.pin(1)
        assert store.is_pinned(1)
    with pytest.raises(SaveFailedError, match="is pinned"):
        store.delete(1)
    kit.assert_holds(store, 1, kit.sample_state())
    assert store.verify(1) == []
    for _ in range(2):
        store.unpin(1)
        assert not store.is_pinned(1)
    store.delete(1)
    for operation in (store.pin, store.unpin):
        with pytest.raises(NoCheckpointError):
            operation(1)
