import gc
import json
from dataclasses import replace

import pytest

from checkpointing.format.manifest import Chunk, StoredFile, StoredTensor
from checkpointing.format.tensor_spec import TensorSpec
from checkpointing.saving.shard_report import (
    ShardReport,
    WrittenFile,
    merge_reports,
    spell_rows,
)

NAME = "r00000.safetensors"
SPEC = TensorSpec(fqn="w", key="fp32", shape=(5, 2), dtype="F32")
KNOWN = {SPEC.name: SPEC}
FILE = StoredFile(name=NAME, size_bytes=4136, block_bytes=5000, crc32=(1,))


def said(spec=SPEC, **changes):
    """What a rank says that has written one file."""
    written = WrittenFile(record=FILE, rows=spell_rows([(spec, 0, 10, 4096)]), **changes)
    return json.loads(json.dumps([written.encode()]))


def report():
    return ShardReport(
        files=(FILE,),
        tensors=(StoredTensor(spec=SPEC, chunks=(Chunk(NAME, 0, 10, 4096),)),),
    )


@pytest.mark.parametrize("known", [{}, KNOWN], ids=["unknown spec", "known spec"])
def test_comes_back(known):
    assert ShardReport.parse(said(), known) == report()


def test_of_several_files_each_tensor_lies_in_its_own():
    other = replace(FILE, name="r00001.safetensors")
    rows = spell_rows([(SPEC, 10, 12, 0)])
    second = WrittenFile(record=other, rows=rows, is_reused=True)
    parsed = ShardReport.parse([*said(), second.encode()], KNOWN)
    assert parsed.files == (FILE, other)
    assert [t.chunks for t in parsed.tensors] == [
        (Chunk(NAME, 0, 10, 4096),),
        (Chunk(other.name, 10, 12, 0),),
    ]
    assert parsed.reused_bytes == other.size_bytes


def test_a_known_spec_is_not_made_anew():
    (tensor,) = ShardReport.parse(said(), KNOWN).tensors
    assert tensor.spec is SPEC


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 1, "a report names a tensor 1"),
        (0, "", "empty fqn"),
        (1, None, "a report names a tensor 'w', None"),
        (2, 10, "the shape 10"),
        (2, [5.0], r"the shape \[5.0\]"),
        (2, [True], r"the shape \[True\]"),
        (2, [-5, -2], "negative dimension"),
        (3, "X", "dtype 'X'"),
        (4, None, "a chunk of fp32/w holds"),
        (5, 10.0, "a chunk of fp32/w holds"),
        (6, -1, "a chunk of fp32/w holds"),
    ],
)
def test_what_no_rank_says_is_refused(place, value, message):
    content = said()
    rows = json.loads(content[0]["rows"])
    rows[0][place] = value
    content[0]["rows"] = json.dumps(rows)
    with pytest.raises(ValueError, match=message):
        ShardReport.parse(content, KNOWN)


def test_the_collector_is_held_and_let_go_again():
    seen = []

    def reports():
        seen.append(gc.isenabled())
        yield report()

    assert gc.isenabled()
    merge_reports(reports(), [SPEC], step=1, token="0" * 16, state={}, created_by={})
    with pytest.raises(ValueError, match="a rank wrote"):
        merge_reports([report()], [], step=1, token="0" * 16, state={}, created_by={})
    assert seen == [False]
    assert gc.isenabled()


@pytest.mark.parametrize("row", [None, [], ["w", "fp32"], {"fqn": "w"}])
def test_a_row_has_seven_parts(row):
    with pytest.raises(ValueError, match="a tensor of a report is not"):
        ShardReport.parse([{**said()[0], "rows": json.dumps([row])}], KNOWN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no list of files"),
        ([{**said()[0], "rows": "{}"}], f"says of {NAME} no list of tensors"),
        ([{**said()[0], "rows": "["}], "Expecting value"),
        ([{**said()[0], "rows": []}], "rows"),
        ([{"file": said()[0]["file"]}], "a file of a report"),
    ],
)
def test_what_is_no_report_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        ShardReport.parse(content, KNOWN)


@pytest.mark.parametrize("field", ["fqn", "key", "shape", "dtype"])
def test_a_tensor_of_another_form_is_refused(field):
    other = {"fqn": "v", "key": "exp_avg", "shape": (2, 5), "dtype": "I32"}
    spec = replace(SPEC, **{field: other[field]})
    parsed = ShardReport.parse(said(spec), KNOWN)
    with pytest.raises(ValueError, match=r"a rank wrote .* but the coordinator's specs have"):
        merge_reports([parsed], [SPEC], step=1, token="0" * 16, state={}, created_by={})
