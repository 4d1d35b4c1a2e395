import errno
import json
import os

import pytest
import safetensors
import safetensors.torch
import torch

from checkpointing import DamagedCheckpointError, Files, SaveFailedError
from checkpointing import export_safetensors as export_file
from checkpointing.exporting import safetensors_file as export
from checkpointing.format.tensor_spec import ITEMSIZES_BYTES

CHOSEN = ("fp32", "param", "buffer")


def test_plain_tensors_in_their_shapes(kit, saved, tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    with saved.open(1) as reader:
        size_bytes = export_file(reader, path, metadata={"step": "1"})
    assert path.stat().st_size == size_bytes
    loaded = safetensors.torch.load_file(path)
    expected = {spec.fqn: t for spec, t in kit.sample_state() if spec.key in CHOSEN}
    assert loaded.keys() == expected.keys()
    for fqn, tensor in expected.items():
        assert (loaded[fqn].shape, loaded[fqn].dtype) == (tensor.shape, tensor.dtype)
        assert kit.bits(loaded[fqn]) == kit.bits(tensor)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "1"}


@pytest.mark.parametrize(("name", "dtype"), [("BF16", torch.bfloat16), ("F64", torch.float64)])
def test_floats_are_converted_and_others_are_not(kit, saved, tmp_path, name, dtype):
    path = tmp_path / "export"
    with saved.open(1) as reader:
        export_file(reader, path, dtype=name, metadata={})
    loaded = safetensors.torch.load_file(path)
    for spec, tensor in kit.sample_state():
        if spec.key in CHOSEN:
            wanted = tensor.to(dtype) if tensor.is_floating_point() else tensor
            assert loaded[spec.fqn].dtype == wanted.dtype
            assert kit.bits(loaded[spec.fqn]) == kit.bits(wanted)


def test_large_tensors_go_in_pieces(kit, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_PIECE_ELEMENTS", 10)
    lengths = []
    original = kit.torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *a: lengths.append(len(self)) or original(self, *a)
    )
    with saved.open(1) as reader:
        export_file(reader, tmp_path / "export", metadata={})
    loaded = safetensors.torch.load_file(tmp_path / "export")
    assert kit.bits(loaded["net.0.weight"]) == kit.bits(kit.sample_state()[0][1])
    assert max(lengths) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": ("fp32", "exp_avg")}, "net.0.weight has both fp32 and exp_avg"),
        (
            {"keys": ("momentum",)},
            r"no tensor with keys=\('momentum',\) is there; there are",
        ),
        ({"dtype": "I64"}, "dtype='I64' is not one to export in"),
    ],
)
def test_refuses(saved, tmp_path, options, message):
    with saved.open(1) as reader, pytest.raises(ValueError, match=message):
        export_file(reader, tmp_path / "export", metadata={}, **options)
    assert not (tmp_path / "export").exists()


def test_an_error_at_any_operation_leaves_the_old_file(kit, saved, tmp_path):
    path = tmp_path / "out" / "export"
    with saved.open(1) as reader:
        files = kit.WatchedFiles()
        export_file(reader, path, metadata={"n": "old"}, files=files)
        assert {"create", "preallocate", "pwrite", "fsync", "close", "rename"} <= set(files.names)
        assert files.names.index("fsync") < files.names.index("rename")
        num_operations = len(files.names)
        for number in range(3, num_operations):  # the folder exists from the second time on
            files = kit.failing_files(number - 3, errno.ENOSPC)
            with pytest.raises(SaveFailedError, match=f"{path} was not exported.*injected"):
                export_file(reader, path, metadata={"n": "new"}, files=files)
            with safetensors.safe_open(path, "pt") as file:
                is_new = file.metadata()["n"] == "new"
            # Only the last operation, the sync of the folder, comes after the new name.
            assert is_new == (number == num_operations - 1)
            assert kit.leftovers(path.parent) == []


def test_damage_is_not_exported(kit, saved, tmp_path):
    shard = saved.path(1) / "r00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[4096] ^= 1
    shard.write_bytes(content)
    with saved.open(1) as reader, pytest.raises(DamagedCheckpointError, match="r00001"):
        export_file(reader, tmp_path / "export", keys=("buffer", "fp32", "param"), metadata={})
    assert not (tmp_path / "export").exists()
    assert kit.leftovers(tmp_path) == []


def test_the_stale_file_of_a_killed_export_is_removed(saved, tmp_path):
    stale = tmp_path / ".tmp-export-0123456789abcdef"
    other = tmp_path / ".tmp-export-of-mine"
    stale.write_text("half")
    other.write_text("not ours")
    with saved.open(1) as reader:
        export_file(reader, tmp_path / "export", metadata={}, files=Files())
    assert not stale.exists()
    assert other.exists()
    assert os.path.exists(tmp_path / "export")


@pytest.mark.parametrize("dtype", [None, "F64"])
def test_every_tensor_lies_at_a_multiple_of_its_item(saved, tmp_path, dtype):
    path = tmp_path / "export"
    with saved.open(1) as reader:
        export_file(reader, path, dtype=dtype, metadata={})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert (8 + length) % 4096 == 0
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % ITEMSIZES_BYTES[entry["dtype"]] == 0, name
