import errno
import json

import pytest
import safetensors
import safetensors.torch
import torch

from checkpointing import DamagedCheckpointError, SaveFailedError, TensorSpec, export_sharded
from checkpointing.exporting.plan import WEIGHT_KEYS, entry_of, split_files


def f32(name, numel):
    return TensorSpec(fqn=name, key="fp32", shape=(numel,), dtype="F32")


@pytest.mark.parametrize(
    ("numels", "dtype", "max_bytes", "groups"),
    [
        ([1], None, 4, [[0]]),
        ([1, 1], None, 8, [[0, 1]]),
        ([1, 1], None, 7, [[0], [1]]),
        ([1, 1], "BF16", 4, [[0, 1]]),
        ([1, 9, 1], None, 8, [[0], [1], [2]]),
        ([0, 9, 0], None, 8, [[0], [1], [2]]),
        ([2, 1, 1, 2], None, 12, [[0, 1], [2, 3]]),
    ],
)
def test_split(numels, dtype, max_bytes, groups):
    specs = [f32(f"t{index}", numel) for index, numel in enumerate(numels)]
    files = split_files(specs, dtype, max_bytes)
    assert [[specs.index(spec) for spec in group] for group in files.values()] == groups
    if len(groups) == 1:
        assert list(files) == ["model.safetensors"]
    else:
        assert next(iter(files)) == f"model-00001-of-{len(groups):05d}.safetensors"


def test_entries_follow_the_dtype():
    assert entry_of(f32("t", 3), "BF16").size_bytes == 6
    integers = TensorSpec(fqn="t", key="buffer", shape=(3,), dtype="I64")
    assert entry_of(integers, "BF16").dtype == "I64"


@pytest.mark.parametrize("dtype", [None, "BF16"])
def test_shards_index_and_config(kit, saved, tmp_path, dtype):
    (tmp_path / "cached.json").write_text('{"hidden": 7}')
    config = tmp_path / "link.json"
    config.symlink_to(tmp_path / "cached.json")
    out = tmp_path / "new" / "export"
    with saved.open(1) as reader:
        names = export_sharded(
            reader, out, dtype=dtype, max_file_bytes=500, config=config, metadata={"step": "1"}
        )
    assert sorted(names) == sorted(path.name for path in out.iterdir())
    assert (out / "config.json").read_text() == '{"hidden": 7}'
    index = json.loads((out / "model.safetensors.index.json").read_text())
    loaded = {}
    for name in set(index["weight_map"].values()):
        with safetensors.safe_open(out / name, "pt") as file:
            assert file.metadata() == {"format": "pt", "step": "1"}
        part = safetensors.torch.load_file(out / name)
        assert {index["weight_map"][fqn] for fqn in part} == {name}
        loaded |= part
    expected = {spec.fqn: t for spec, t in kit.sample_state() if spec.key in WEIGHT_KEYS}
    assert loaded.keys() == expected.keys() == index["weight_map"].keys()
    total = 0
    for fqn, tensor in expected.items():
        wanted = tensor.bfloat16() if dtype and tensor.is_floating_point() else tensor
        assert (loaded[fqn].shape, loaded[fqn].dtype) == (wanted.shape, wanted.dtype)
        assert kit.bits(loaded[fqn]) == kit.bits(wanted)
        total += wanted.numel() * wanted.element_size()
    assert index["metadata"]["total_size"] == total


def test_one_file_has_no_index(saved, tmp_path):
    with saved.open(1) as reader:
        names = export_sharded(reader, tmp_path / "out", max_file_bytes=10**9, metadata={})
    assert names == ["model.safetensors"]


def test_a_folder_with_something_in_it_is_left_alone(saved, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with saved.open(1) as reader, pytest.raises(ValueError, match="exists already"):
        export_sharded(reader, tmp_path / "out", max_file_bytes=500, metadata={})
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def test_damage_is_not_exported(kit, saved, tmp_path):
    shard = saved.path(1) / "r00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[4096] ^= 1
    shard.write_bytes(content)
    with saved.open(1) as reader, pytest.raises(DamagedCheckpointError, match="r00001"):
        export_sharded(reader, tmp_path / "export", max_file_bytes=500, metadata={})
    assert not (tmp_path / "export").exists()
    assert kit.leftovers(tmp_path) == []


def test_an_error_at_any_operation_leaves_all_or_nothing(kit, saved, tmp_path):
    config = tmp_path / "config"
    config.write_text("{}")

    def export(out, files):
        with saved.open(1) as reader:
            export_sharded(reader, out, max_file_bytes=500, config=config, metadata={}, files=files)

    whole = kit.WatchedFiles()
    export(tmp_path / "whole", whole)
    names = whole.names
    assert names[-3:] == ["fsync_dir", "rename", "fsync_dir"]
    assert names.count("fsync") == names.count("create") == names.count("pwrite") >= 4
    for number in range(len(names)):
        out = tmp_path / "parent" / str(number)
        out.parent.mkdir(exist_ok=True)
        with pytest.raises((SaveFailedError, DamagedCheckpointError), match="injected"):
            export(out, kit.failing_files(number, errno.ENOSPC))
        # Only the last operation, the sync of the parent, comes after the new name.
        assert out.exists() == (number == len(names) - 1)
        assert kit.leftovers(out.parent) == []


def test_what_a_killed_export_has_left_is_removed(saved, tmp_path):
    stale = tmp_path / ".tmp-out-0123456789abcdef"
    stale.mkdir()
    (stale / "half").write_text("half")
    (tmp_path / ".tmp-out-of-mine").mkdir()
    with saved.open(1) as reader:
        export_sharded(reader, tmp_path / "out", max_file_bytes=500, metadata={})
    assert not stale.exists()
    assert (tmp_path / ".tmp-out-of-mine").exists()


def test_memory_stays_small(kit, tmp_path, monkeypatch):
    from checkpointing import CheckpointReader

    lengths = []
    original = CheckpointReader.read
    monkeypatch.setattr(
        CheckpointReader,
        "read",
        lambda self, fqn, key, start, end: (
            lengths.append(end - start) or original(self, fqn, key, start, end)
        ),
    )
    store = kit.CheckpointStore(tmp_path / "store")
    tensor = torch.arange(3_000_000.0)
    kit.save_state(store, 1, [(f32("large", len(tensor)), tensor)])
    with store.open(1) as reader:
        export_sharded(reader, tmp_path / "out", dtype="F64", max_file_bytes=1000, metadata={})
    assert max(lengths) <= 1024 * 1024
    loaded = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(loaded["large"], tensor.double())
