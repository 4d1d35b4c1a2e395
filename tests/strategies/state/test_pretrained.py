import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from checkpointing import TensorSpec
from strategies import ConfigError
from strategies.state.pretrained import PretrainedWeights

TENSORS = {
    "embed.weight": torch.arange(12.0).view(4, 3),
    "scale": torch.tensor(2.5, dtype=torch.bfloat16),
    "counts": torch.arange(5),
}
ALIASES = {"head.weight": "embed.weight"}
SPECS = [
    TensorSpec(fqn="embed.weight", key="fp32", shape=(4, 3), dtype="F32"),
    TensorSpec(fqn="scale", key="buffer", shape=(), dtype="F32"),
    TensorSpec(fqn="counts", key="buffer", shape=(5,), dtype="I64"),
]


def one_file(folder: Path) -> Path:
    save_file(TENSORS, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def folder_with_one(folder: Path) -> Path:
    save_file(TENSORS, folder / "model.safetensors")
    return folder


def folder_with_index(folder: Path) -> Path:
    """Two files; the tied tensor stands under its other name."""
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    save_file({"head.weight": TENSORS["embed.weight"]}, folder / first)
    save_file({"scale": TENSORS["scale"], "counts": TENSORS["counts"]}, folder / second)
    index = {"weight_map": {"head.weight": first, "scale": second, "counts": second}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_a_dtype_that_is_not_supported_is_named(tmp_path: Path) -> None:
    header = {"scale": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\x01\x02")
    with pytest.raises(ConfigError, match=r"holds scale as F4, and that dtype is not supported"):
        PretrainedWeights.open(tmp_path, SPECS, ALIASES)


@pytest.mark.parametrize("write", [one_file, folder_with_one, folder_with_index])
def test_ranges_are_read(write: Callable[[Path], Path], tmp_path: Path) -> None:
    source = PretrainedWeights.open(write(tmp_path), SPECS, ALIASES)
    assert source.read("embed.weight", "fp32", 2, 7).tolist() == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert source.read("embed.weight", "fp32", 4, 4).numel() == 0
    assert source.read("scale", "buffer", 0, 1).dtype == torch.bfloat16
    assert source.read("counts", "buffer", 0, 5).tolist() == [0, 1, 2, 3, 4]


def test_other_names_and_shapes_are_named(tmp_path: Path) -> None:
    specs = [
        TensorSpec(fqn="embed.weight", key="fp32", shape=(5, 3), dtype="F32"),
        TensorSpec(fqn="bias", key="fp32", shape=(5,), dtype="F32"),
        SPECS[1],
    ]
    with pytest.raises(ConfigError) as caught:
        PretrainedWeights.open(one_file(tmp_path), specs, {})
    text = str(caught.value)
    assert "bias is in the model, but not in the file" in text
    assert "counts is in the file, but not in the model" in text
    assert "embed.weight is (5, 3) in the model and (4, 3) in the file" in text


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda data: data[:-9], "it was cut off"),
        (lambda data: b"\xff" * 8 + data[8:], "is not a safetensors file"),
        (lambda data: data[:8] + b"x" + data[9:], "is not a safetensors file"),
        (lambda data: b"", "is not a safetensors file"),
    ],
)
def test_what_is_not_whole_is_refused(
    spoil: Callable[[bytes], bytes], sentence: str, tmp_path: Path
) -> None:
    path = one_file(tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ConfigError, match=sentence):
        PretrainedWeights.open(path, SPECS, ALIASES)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither model\.safetensors nor"):
        PretrainedWeights.open(tmp_path, SPECS, ALIASES)
