"""What other programs really save is read back, value for value, and nothing in it is run."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

from checkpointing import (
    DamagedCheckpointError,
    export_safetensors,
    import_checkpoint,
    open_foreign,
)
from checkpointing.importing.plain_pickle import parse_pickle
from checkpointing.importing.torch_file import TENSOR_NAMES, TorchFile
from checkpointing.storage.local_files import LOCAL_FILES


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.second = nn.Linear(7, 3, bias=False)
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("count", torch.tensor([3, 1 << 40]))
        self.frozen = nn.Parameter(torch.randn(4, 2).bfloat16(), requires_grad=False)


@pytest.fixture
def trained():
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        loss = net.second(net.first(torch.randn(2, 5))).sum() * net.gain
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return net, optimizer


def save_dcp(folder, trained):
    model, optimizer = get_state_dict(*trained)
    dcp.save({"model": model, "optim": optimizer, "step": 3}, checkpoint_id=folder)


def take_over(kit, source, folder, **options):
    opened = open_foreign(source, **options)
    store = kit.store_at(folder)
    with opened.opened:
        import_checkpoint(store, opened, state={}, created_by={})
    assert store.verify(0) == []
    with store.open(0) as reader:
        return opened, {
            (spec.fqn, spec.key): reader.read(spec.fqn, spec.key, 0, spec.numel).view(spec.shape)
            for spec in reader.manifest.specs()
        }


def assert_weights(kit, found, net):
    for name, tensor in net.state_dict().items():
        assert kit.bits(found[name, "param"]) == kit.bits(tensor), name
        assert found[name, "param"].shape == tensor.shape


def test_torch_dcp(kit, tmp_path, trained):
    net, optimizer = trained
    save_dcp(tmp_path / "dcp", trained)
    source, found = take_over(kit, tmp_path / "dcp", tmp_path / "store")
    assert source.kind == "torch DCP"
    assert_weights(kit, found, net)
    for name, parameter in net.named_parameters():
        for key in ("exp_avg", "exp_avg_sq") if parameter.requires_grad else ():
            state = optimizer.state[parameter][key]
            if state.ndim:
                assert kit.bits(found[name, key]) == kit.bits(state)
            else:  # of a scalar parameter: kept among the numbers
                assert source.scalars[name][key] == state.item()
        if parameter.requires_grad:
            assert source.scalars[name]["step"] == 3
    assert "step" in source.ignored


def test_torch_dcp_of_a_model_alone_and_with_a_prefix(kit, tmp_path, trained):
    dcp.save(trained[0].state_dict(), checkpoint_id=tmp_path / "plain")
    assert_weights(kit, take_over(kit, tmp_path / "plain", tmp_path / "a")[1], trained[0])
    both = {"net": trained[0].state_dict(), "ema": trained[0].state_dict()}
    dcp.save(both, checkpoint_id=tmp_path / "both")
    with pytest.raises(ValueError, match=r"under \['ema', 'net'\].*--prefix"):
        open_foreign(tmp_path / "both")
    found = take_over(kit, tmp_path / "both", tmp_path / "b", prefix="net.")[1]
    assert_weights(kit, found, trained[0])


def test_hugging_face(kit, tmp_path, trained):
    state = trained[0].state_dict()
    names = sorted(state)
    (tmp_path / "hf").mkdir()
    for number, part in enumerate((names[:2], names[2:]), start=1):
        tensors = {f"base.{name}": state[name] for name in part}
        save_file(tensors, tmp_path / "hf" / f"model-0000{number}-of-00002.safetensors")
    source, found = take_over(kit, tmp_path / "hf", tmp_path / "store", prefix="base.")
    assert (source.kind, source.ignored) == ("Hugging Face safetensors", ())
    assert_weights(kit, found, trained[0])
    index = tmp_path / "hf" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"base.x": "model-00003-of-00003.safetensors"}}')
    with pytest.raises(DamagedCheckpointError, match=r"names model-00003.*not there"):
        open_foreign(tmp_path / "hf")


def test_the_file_that_transformers_reads(kit, tmp_path, trained):
    """A second, smaller `save_pretrained` leaves the index of the first, with or without files."""
    state = trained[0].state_dict()
    folder = tmp_path / "hf"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    index = {"weight_map": dict.fromkeys(state, "model-00001-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_weights(kit, take_over(kit, folder, tmp_path / "a")[1], trained[0])
    others = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    save_file(others, folder / "model-00001-of-00002.safetensors")
    assert_weights(kit, take_over(kit, folder, tmp_path / "b")[1], trained[0])
    save_file(others, folder / "consolidated.safetensors")
    assert_weights(kit, take_over(kit, folder, tmp_path / "c")[1], trained[0])


def save_boxes(folder, weight, *, cut=3, second_offset=None):
    """Write one tensor as two ranks do with `HuggingFaceStorageWriter(save_distributed=True)`."""
    folder.mkdir()
    parts = ((0, weight[:cut]), (cut if second_offset is None else second_offset, weight[cut:]))
    for rank, (begin, part) in enumerate(parts, start=1):
        offsets = {"w": {"saved_offsets": [begin, 0]}, "b": {"saved_offsets": [rank - 1]}}
        save_file(
            {"w": part.contiguous(), "b": torch.tensor([rank], dtype=torch.int16)},
            folder / f"shard-0000{rank}-model-00001-of-00001.safetensors",
            {"DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(offsets)},
        )


def test_boxes_of_two_ranks_are_put_together(kit, tmp_path):
    weight = torch.arange(20.0).view(5, 4)
    save_boxes(tmp_path / "hf", weight)
    found = take_over(kit, tmp_path / "hf", tmp_path / "store")[1]
    assert torch.equal(found["w", "param"], weight)
    assert found["b", "param"].tolist() == [1, 2]
    for name, offset, words in (("over", 2, "overlap"), ("gap", 4, "have 20 elements of 24")):
        save_boxes(tmp_path / name, weight, second_offset=offset)
        with pytest.raises(DamagedCheckpointError, match=words):
            open_foreign(tmp_path / name)


def test_the_same_name_in_two_files_is_told(tmp_path):
    (tmp_path / "hf").mkdir()
    for name in ("a", "b"):
        save_file({"w": torch.ones(2)}, tmp_path / "hf" / f"{name}.safetensors")
    with pytest.raises(DamagedCheckpointError, match="w is in two files"):
        open_foreign(tmp_path / "hf")


@pytest.mark.parametrize("whole", ["parts", "beside", "flat"])
def test_torch_dcp_with_a_flat_optimizer(kit, tmp_path, trained, whole):
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    model, optimizer = get_state_dict(*trained, options=options)
    content = {
        "parts": {"model": model, "optim": optimizer},
        "beside": {"model": model, **optimizer},
        "flat": {**model, **optimizer},
    }[whole]
    dcp.save(content, checkpoint_id=tmp_path / "dcp")
    source, found = take_over(kit, tmp_path / "dcp", tmp_path / "store")
    assert_weights(kit, found, trained[0])
    state = {name: trained[1].state[p] for name, p in trained[0].named_parameters()}
    for name in ("first.weight", "first.bias", "second.weight"):
        for key in ("exp_avg", "exp_avg_sq"):
            assert kit.bits(found[name, key]) == kit.bits(state[name][key])
        assert source.scalars[name]["step"] == 3
    assert all("param_groups" in name for name in source.ignored)


def test_a_module_called_state_is_no_optimizer(kit, tmp_path):
    weights = {"state.enc.weight": torch.ones(3), "state.enc.bias": torch.zeros(2)}
    dcp.save(weights, checkpoint_id=tmp_path / "dcp")
    found = take_over(kit, tmp_path / "dcp", tmp_path / "store")[1]
    assert set(found) == {(name, "param") for name in weights}


def write_raw(path, dtype, shape, size_bytes):
    """Write a safetensors file of any dtype by hand."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size_bytes]}
    header = json.dumps({"scales": entry}).encode()
    data = bytes(range(1, size_bytes + 1))
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


@pytest.mark.parametrize("dtype", ["F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"])
def test_newer_dtypes_are_read_and_exported(kit, tmp_path, dtype):
    (tmp_path / "hf").mkdir()
    write_raw(tmp_path / "hf" / "model.safetensors", dtype, [2], 16 if dtype == "C64" else 2)
    _, found = take_over(kit, tmp_path / "hf", tmp_path / "store")
    with kit.store_at(tmp_path / "store").open(0) as reader:
        export_safetensors(reader, tmp_path / "out.safetensors", metadata={})
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        written = file.get_tensor("scales")
    assert written.dtype == found["scales", "param"].dtype
    assert kit.bits(written) == kit.bits(found["scales", "param"])


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F12_NEW"])
def test_a_dtype_that_is_not_supported_is_no_damage(tmp_path, dtype):
    write_raw(tmp_path / "model.safetensors", dtype, [4], 2)
    with pytest.raises(ValueError, match=rf"holds scales as {dtype}.*not supported") as caught:
        open_foreign(tmp_path)
    assert not isinstance(caught.value, DamagedCheckpointError)


def test_what_is_none_of_these_is_refused(kit, tmp_path, trained):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"neither \.metadata"):
        open_foreign(tmp_path / "empty")
    save_dcp(tmp_path / "dcp", trained)
    store = kit.store_at(tmp_path / "store")
    kit.save_state(store, 5, kit.sample_state())
    with pytest.raises(ValueError, match="holds step 5 already"):
        import_checkpoint(store, open_foreign(tmp_path / "dcp"), state={}, created_by={})


# --- hostile and damaged --------------------------------------------------------------------


class Evil:
    def __init__(self, what, *arguments):
        self.call = (what, arguments)

    def __reduce__(self):
        return self.call


HOSTILE = [
    (os.system, "touch pwned", "posix.system"),
    (eval, "open('pwned', 'w')", "builtins.eval"),
    (exec, "open('pwned', 'w')", "builtins.exec"),
    (Path.touch, Path("pwned"), "pathlib"),
    (getattr, "x", "builtins.getattr"),
    (torch.load, "x", "torch.serialization.load"),
]


@pytest.mark.parametrize(("what", "argument", "name"), HOSTILE, ids=[h[2] for h in HOSTILE])
@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_by_name(tmp_path, monkeypatch, what, argument, name, protocol):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"a": Evil(what, argument)}, protocol=protocol)
    with pytest.raises(DamagedCheckpointError, match=f"file: wants .*{name}|getattr|__builtin__"):
        parse_pickle(content, TENSOR_NAMES, path=Path("file"))
    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"\.metadata: wants .*Refused"):
        open_foreign(tmp_path)
    torch.save({"a": Evil(what, argument)}, tmp_path / "evil.pt")
    with pytest.raises(DamagedCheckpointError, match=r"evil.pt: wants"):
        TorchFile(tmp_path / "evil.pt", LOCAL_FILES)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_is_read_as_pickle_reads_it(protocol):
    shared = [1, 2]
    value = {
        "numbers": [0, 1, 255, 256, 65536, -1, 1 << 100, -(1 << 70), 0.5, float("inf"), True, None],
        "texts": ["", "é", "x" * 300, "\u2603"],
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "shared": [shared, shared],
        3: {"nested": {}},
    }
    found = parse_pickle(pickle.dumps(value, protocol), {}, path=Path("file"))
    assert found == value
    assert found["shared"][0] is found["shared"][1]


def test_torch_files_of_every_dtype_and_layout(tmp_path, kit):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "plain": base,
        "transposed": base.t(),
        "sliced": base[1:3, ::2],
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3.5),
        "parameter": nn.Parameter(base.clone()),
        **{
            str(dtype): torch.ones(3).to(dtype)
            for dtype in (torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8)
        },
    }
    torch.save(tensors, tmp_path / "file.pt")
    file = TorchFile(tmp_path / "file.pt", LOCAL_FILES)
    try:
        for name, tensor in tensors.items():
            ref = file.data[name]
            assert ref.shape == tuple(tensor.shape)
            assert kit.bits(file.read(ref)) == kit.bits(tensor.detach()), name
    finally:
        file.close()


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "good.pt")
    with (
        zipfile.ZipFile(tmp_path / "good.pt") as good,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in good.namelist():
            bomb.writestr(name, good.read(name))
    with pytest.raises(DamagedCheckpointError, match="compressed"):
        TorchFile(tmp_path / "bomb.pt", LOCAL_FILES)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (8, 1, "its data.pkl is unreadable: .*password"),
        (8, 64, "its data.pkl is unreadable: .*encryption"),
        (20, 1 << 30, "its data.pkl is compressed or too large"),
        (24, 1 << 30, "its data.pkl is compressed or too large"),
    ],
    ids=["encrypted", "strongly encrypted", "says to be larger", "unpacks to more"],
)
def test_an_archive_whose_directory_lies_is_refused(tmp_path, at, value, message):
    """Both sizes of a member stand in the archive's directory; Python reads what they say."""
    torch.save({"a": torch.ones(3)}, tmp_path / "file.pt")
    content = bytearray((tmp_path / "file.pt").read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"/data.pkl"))
    content[entry + at : entry + at + 4] = value.to_bytes(4, "little")
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=message):
        TorchFile(tmp_path / "file.pt", LOCAL_FILES)


def read_everything(folder):
    source = open_foreign(folder)
    with source.opened:
        return {(one.spec.fqn, one.spec.key): one.read() for one in source.tensors}


def test_chunks_that_are_missing_or_overlap_are_damage(tmp_path):
    dcp.save({"a": torch.ones(30)}, checkpoint_id=tmp_path)
    (tmp_path / "__0_0.distcp").unlink()
    with pytest.raises(DamagedCheckpointError, match=r"__0_0.distcp: cannot be read"):
        read_everything(tmp_path)
