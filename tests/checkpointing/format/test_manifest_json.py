import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from checkpointing.format import manifest_json as manifest_text
from checkpointing.format.manifest import Chunk, Manifest, StoredFile, StoredTensor
from checkpointing.format.manifest_json import encode_manifest, parse_manifest
from checkpointing.format.strict_json import canonical_text
from checkpointing.format.tensor_spec import TensorSpec

NAME = "r00000.safetensors"
FILE, START, END, OFFSET = range(4)


def manifest():
    spec = TensorSpec(fqn="w", key="fp32", shape=(5, 2), dtype="F32")
    chunks = (
        Chunk(file=NAME, start=0, end=6, offset=4096),
        Chunk(file=NAME, start=6, end=10, offset=4120),
    )
    empty = TensorSpec(fqn="none", key="fp32", shape=(0,), dtype="F32")
    return Manifest(
        step=7,
        token="0123456789abcdef",
        created_by={"by": "test"},
        state={"lr": 0.1, "tiny": 5e-324, "nested": [None, True, {"a": "é"}]},
        tensors=(StoredTensor(spec=spec, chunks=chunks), StoredTensor(spec=empty, chunks=())),
        files=(StoredFile(name=NAME, size_bytes=4136, block_bytes=4000, crc32=(1, 2)),),
    )


def forged(change):
    """The text of a manifest after a change by someone who also renews the SHA-256."""
    content = json.loads(encode_manifest(manifest()))
    del content["sha256"]
    change(content)
    digest = hashlib.sha256(canonical_text(content).encode()).hexdigest()
    return canonical_text({**content, "sha256": digest}).encode()


def test_comes_back():
    assert parse_manifest(encode_manifest(manifest())) == manifest()


def test_an_unchanged_forgery_is_accepted():
    assert parse_manifest(forged(lambda content: None)) == manifest()


OBJECT = "objects/0123456789abcdef-r00000.safetensors"


def with_object(**changes):
    """A manifest whose second tensor lies in a part of an object."""
    content = {"start": 4100, "size_bytes": 4200, "name": OBJECT, **changes}
    spec = TensorSpec(fqn="base", key="param", shape=(6,), dtype="F32")
    chunks = (Chunk(content["name"], 0, 2, content["start"]), Chunk(content["name"], 2, 6, 4150))
    file = StoredFile(
        name=content["name"], size_bytes=content["size_bytes"], block_bytes=9000, crc32=(3,)
    )
    whole = manifest()
    return replace(
        whole,
        tensors=(*whole.tensors, StoredTensor(spec=spec, chunks=chunks)),
        files=(*whole.files, file),
    )


def test_of_an_object_a_checkpoint_may_use_a_part():
    found = parse_manifest(encode_manifest(with_object()))
    assert found == with_object()
    assert found.objects == {OBJECT}
    assert (found.size_bytes, found.own_bytes) == (4136 + 4200, 4136)
    assert found.written_bytes == 4136 + 4200  # the object is of this attempt
    assert replace(found, token="0" * 16).written_bytes == 4136


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": 4144}, r"the bytes \[4150, 4166\) are not those of one tensor"),
        ({"start": 4000}, r"the bytes \[4000, 4008\) are not"),
        ({"size_bytes": 4160}, r"the bytes \[4150, 4166\) are not"),
        ({"name": "objects/../0123456789abcdef-r00000.safetensors"}, "is not named like"),
        ({"name": "objects/r00000.safetensors"}, "is not named like"),
        ({"name": f"other/{OBJECT}"}, "is not named like"),
    ],
)
def test_what_an_object_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        encode_manifest(with_object(**changes))


def test_an_object_in_which_nothing_lies_is_refused():
    with pytest.raises(ValueError, match="in which no tensor lies"):
        encode_manifest(replace(with_object(), tensors=manifest().tensors))


def test_version_2_is_read_and_has_no_objects():
    content = json.loads(forged(put(top, "version", 2)))
    assert content["version"] == 2
    assert parse_manifest(forged(put(top, "version", 2))) == manifest()

    def older(content):
        content["version"] = 2
        content["files"].append(
            {**file(content), "name": OBJECT, "size_bytes": 4104, "crc32": [1, 2]}
        )
        spec = {"fqn": "b", "key": "param", "shape": [2], "dtype": "F32"}
        content["tensors"].append({**spec, "chunks": [[1, 0, 2, 4096]]})

    with pytest.raises(ValueError, match="names objects, which version 2 has none of"):
        parse_manifest(forged(older))


def test_a_checkpoint_of_format_2_is_read(kit):
    store = kit.store_at(Path(__file__).with_name("format_2"))
    assert json.loads((store.path(7) / "manifest.json").read_text())["version"] == 2
    assert store.verify(7) == []
    kit.assert_holds(store, 7, kit.sample_state(7))


def test_every_flipped_bit_is_seen():
    text = encode_manifest(manifest())
    for position in range(len(text)):
        for bit in range(8):
            damaged = bytearray(text)
            damaged[position] ^= 1 << bit
            with pytest.raises(ValueError, match=r"."):
                parse_manifest(bytes(damaged))


def test_every_truncation_is_seen():
    text = encode_manifest(manifest())
    for length in range(len(text)):
        with pytest.raises(ValueError, match=r"."):
            parse_manifest(text[:length])


def chunk(index=0):
    return lambda content: content["tensors"][0]["chunks"][index]


def put(target, name, value):
    def change(content):
        target(content)[name] = value

    return change


def top(content):
    return content


def file(content):
    return content["files"][0]


def tensor(content):
    return content["tensors"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(top, "version", 1), "format version 1; this relaunch reads versions 2 to 4"),
        (put(top, "format", "other"), "has the format 'other'"),
        (put(top, "extra", 1), "unknown extra"),
        (put(top, "step", -1), "step is -1, below 0"),
        (put(top, "step", True), "step is not of type int"),
        (put(top, "step", 7.0), "step is not of type int"),
        (put(top, "token", "../x"), "not hexadecimal"),
        (put(top, "state", []), "state is not of type dict"),
        (put(top, "tensors", {}), "tensors is not of type list"),
        (put(top, "files", []), "lies in file 0 of 0"),
        (lambda c: c.pop("state"), "lacks state"),
        (lambda c: c["files"].append(c["files"][0]), "lists the file r00000.safetensors twice"),
        (lambda c: c["tensors"].append(c["tensors"][1]), "lists the tensor fp32/none twice"),
        (lambda c: c["files"].append({**file(c), "name": "r00001.safetensors"}), "starts at byte"),
        (put(file, "name", "../r00000.safetensors"), "is not named like"),
        (put(file, "name", "/etc/passwd"), "is not named like"),
        (put(file, "name", "r00000.safetensors\n"), "is not named like"),
        (put(file, "size_bytes", 0), "size_bytes is 0"),
        (put(file, "size_bytes", 4132), "not a range within"),
        (put(file, "size_bytes", 4140), r"bytes \[4136, 4140\) are not covered"),
        (put(file, "block_bytes", 0), "block_bytes is 0"),
        (put(file, "block_bytes", 1 << 40), "has blocks of 1099511627776 bytes, more than"),
        (put(file, "crc32", [1]), "1 checksums for 2 blocks"),
        (put(file, "crc32", []), "0 checksums for 2 blocks"),
        (put(file, "crc32", [1, -2]), "crc32 is -2"),
        (put(file, "crc32", [1, 1 << 32]), "more than 32 bits"),
        (put(tensor, "shape", [5, 3]), r"fp32/w: elements \[10, 15\) are not covered"),
        (put(tensor, "shape", [-5, -2]), "shape is -5"),
        (put(tensor, "dtype", "F64"), "covered twice|not a range"),
        (put(tensor, "dtype", "X"), "dtype 'X'"),
        (put(tensor, "key", "a/b"), "not a word"),
        (lambda c: c["tensors"][0].pop("fqn"), "lacks fqn"),
        (lambda c: c["tensors"][0]["chunks"].pop(), "are not covered"),
        (lambda c: c["tensors"][0]["chunks"].append(chunk()(c)), "covered twice"),
        (lambda c: c["tensors"][0]["chunks"].reverse(), "not ascending"),
        (put(chunk(), FILE, 1), "fp32/w lies in file 1 of 1"),
        (put(chunk(), FILE, "r00000.safetensors"), r"holds \['r00000.safetensors', 0"),
        (put(chunk(), START, -1), r"a chunk of fp32/w holds \[0, -1"),
        (put(chunk(), START, True), r"a chunk of fp32/w holds \[0, True"),
        (put(chunk(), START, 0.0), r"a chunk of fp32/w holds \[0, 0.0"),
        (lambda c: chunk()(c).append(1), "a chunk of fp32/w is not four numbers"),
        (lambda c: c["tensors"][0]["chunks"].append({}), "a chunk of fp32/w is not four numbers"),
        (put(chunk(), START, 1), r"elements \[0, 1\) are not covered"),
        (put(chunk(), END, 7), r"elements \[6, 7\) are covered twice"),
        (put(chunk(1), END, 11), "not a range within"),
        (put(chunk(1), OFFSET, 4096), r"bytes \[4096, 4112\) are covered twice"),
        (put(chunk(1), OFFSET, 10**9), "not a range within"),
        (put(chunk(), OFFSET, 0), "starts at byte 0"),
        (put(chunk(), OFFSET, 4095), "starts at byte 4095"),
    ],
)
def test_a_forged_manifest_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        parse_manifest(forged(change))


def test_a_chunk_in_a_file_that_is_not_listed_is_not_written():
    good = manifest()
    with pytest.raises(ValueError, match=r"lies in 'r00000.safetensors', which is not a listed"):
        encode_manifest(Manifest(**{**vars(good), "files": ()}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"step":7', b'"step": 7'),
        (b'"step":7', b'"step":7,"step":7'),
        (b'"lr":0.1', b'"lr":0.10'),
        (b'"lr":0.1', b'"lr":NaN'),
        (b"{", b" {"),
        (b'"format"', b'"f\\u006frmat"'),
    ],
)
def test_one_spelling_only(old, new):
    text = encode_manifest(manifest())
    assert old in text
    with pytest.raises(ValueError, match=r"canonically|JSON compliant"):
        parse_manifest(text.replace(old, new, 1))


def test_the_sha256_is_that_of_the_text_without_it():
    text = encode_manifest(manifest())
    content = json.loads(text)
    content["state"]["sha256"] = "a nested one is not meant"
    del content["sha256"]
    digest = hashlib.sha256(canonical_text(content).encode()).hexdigest()
    whole = canonical_text({**content, "sha256": digest}).encode()
    assert parse_manifest(whole).state["sha256"] == "a nested one is not meant"
    assert encode_manifest(parse_manifest(whole)) == whole


def test_a_text_that_nobody_would_read_is_not_written(monkeypatch):
    monkeypatch.setattr(manifest_text, "MAX_TEXT_BYTES", 500)
    with pytest.raises(ValueError, match="bytes, more than 500"):
        encode_manifest(manifest())


def test_what_could_not_be_read_is_not_written():
    good = manifest()
    gap = StoredTensor(spec=good.tensors[0].spec, chunks=good.tensors[0].chunks[:1])
    fields = {**vars(good), "tensors": (gap,)}
    with pytest.raises(ValueError, match=r"elements \[6, 10\) are not covered"):
        encode_manifest(Manifest(**fields))
    with pytest.raises(ValueError, match="JSON"):
        encode_manifest(Manifest(**{**vars(good), "state": {"x": math.nan}}))
