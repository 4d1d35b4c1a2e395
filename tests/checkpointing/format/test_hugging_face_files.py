"""Which files of a folder are the model's: transformers' own rule."""

import json

import pytest

from checkpointing.format.hugging_face_files import weight_files

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


def index_of(*files):
    return json.dumps({"weight_map": {str(n): name for n, name in enumerate(files)}}).encode()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        ([*SHARDS, INDEX], SHARDS),
        # A second save_pretrained leaves the index of the first.
        (["model.safetensors", INDEX], ["model.safetensors"]),
        (["model.safetensors", *SHARDS, INDEX], ["model.safetensors"]),
        ([*SHARDS, INDEX, "consolidated.safetensors"], SHARDS),
        (["model.safetensors", "adapter_model.safetensors"], ["model.safetensors"]),
        (["unet.safetensors", "unet.safetensors.index.json"], ["unet.safetensors"]),
        ([*SHARDS, "unet.safetensors.index.json"], SHARDS),
        ([*SHARDS, INDEX, "unet.safetensors.index.json"], SHARDS),
        (["b.safetensors", "a.safetensors", "x.bin"], ["a.safetensors", "b.safetensors"]),
        (["x.bin"], []),
    ],
)
def test_the_files_that_transformers_takes(names, chosen):
    assert weight_files(names, lambda name: index_of(*SHARDS)) == chosen


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"weight_map": [1]}', index_of("a.bin")])
def test_what_is_no_index_is_told(content):
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json is not an index"):
        weight_files([INDEX, *SHARDS], lambda name: content)


def test_several_models_are_refused():
    names = ["a.safetensors.index.json", "b.safetensors.index.json", *SHARDS]
    with pytest.raises(ValueError, match=r"the indices of 2 models \(a, b\)"):
        weight_files(names, lambda name: index_of(*SHARDS))
