import gc
import json
from dataclasses import replace

import pytest

from checkpointing.format.manifest import Chunk, StoredFile, StoredTensor
from checkpointing.format.tensor_spec import TensorSpec
from checkpointing.saving.shard_report import ShardReport, merge_reports

NAME = "r00000.safetensors"
SPEC = TensorSpec(fqn="w", key="fp32", shape=(5, 2), dtype="F32")
KNOWN = {SPEC.name: SPEC}


def report():
    return ShardReport(
        files=(StoredFile(name=NAME, size_bytes=4136, block_bytes=5000, crc32=(1,)),),
        tensors=(StoredTensor(spec=SPEC, chunks=(Chunk(NAME, 0, 10, 4096),)),),
    )


@pytest.mark.parametrize("known", [{}, KNOWN], ids=["unknown spec", "known spec"])
def test_comes_back(known):
    assert ShardReport.parse(json.loads(json.dumps(report().encode())), known) == report()


def test_a_known_spec_is_not_made_anew():
    (tensor,) = ShardReport.parse(report().encode(), KNOWN).tensors
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
        (4, None, "no chunks of fp32/w"),
        (4, [[0, 0, 10]], "not four numbers"),
        (4, [[1, 0, 10, 4096]], "lies in file 1 of 1"),
    ],
)
def test_what_no_rank_says_is_refused(place, value, message):
    content = json.loads(json.dumps(report().encode()))
    content["tensors"][0][place] = value
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
def test_a_row_has_five_parts(row):
    with pytest.raises(ValueError, match="a tensor of a report is not"):
        ShardReport.parse({**report().encode(), "tensors": [row]}, KNOWN)


@pytest.mark.parametrize("field", ["fqn", "key", "shape", "dtype"])
def test_a_tensor_of_another_form_is_refused(field):
    other = {"fqn": "v", "key": "exp_avg", "shape": (2, 5), "dtype": "I32"}
    spec = replace(SPEC, **{field: other[field]})
    parsed = ShardReport.parse(
        ShardReport(files=(), tensors=(StoredTensor(spec=spec, chunks=()),)).encode(), KNOWN
    )
    with pytest.raises(ValueError, match=r"a rank wrote .* but the coordinator's specs have"):
        merge_reports([parsed], [SPEC], step=1, token="0" * 16, state={}, created_by={})
