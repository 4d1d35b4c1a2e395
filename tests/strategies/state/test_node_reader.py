from types import SimpleNamespace

import pytest
import torch

from checkpointing import (
    BlockPiece,
    CheckpointStore,
    DamagedCheckpointError,
    Fragment,
    LocalCommunicator,
    ModelMismatchError,
    Snapshot,
    TensorSpec,
    save_checkpoint,
)
from strategies.collectives.process_group import NodeGroup
from strategies.state.node_reader import NodeSource, owner_of

ALONE = NodeGroup(members=(0,), own=0, group=None)
VALUES = torch.arange(1000.0)


def piece(file, section):
    return BlockPiece(file=file, section=section, offset=0, position=0, size_bytes=1)


def test_the_sections_of_a_file_go_round():
    for num_members in (1, 2, 3, 8):
        owners = [owner_of(piece("r00000.safetensors", b), num_members) for b in range(24)]
        assert set(owners) == set(range(num_members))
        assert owners[:num_members] == owners[num_members : 2 * num_members] or num_members == 1
        assert max(map(owners.count, owners)) == 24 // num_members


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path, block_bytes=256)
    spec = TensorSpec(fqn="w", key="fp32", shape=(1000,), dtype="F32")
    snapshot = Snapshot(
        step=1,
        specs=[spec],
        fragments=[
            Fragment(spec=spec, start=0, end=400, data=VALUES[:400]),
            Fragment(spec=spec, start=400, end=1000, data=VALUES[400:]),
        ],
        state={},
        created_by={},
    )
    save_checkpoint(store, snapshot, LocalCommunicator())
    return store


@pytest.mark.parametrize(("start", "end"), [(0, 1000), (0, 0), (3, 4), (399, 401), (63, 130)])
def test_pieces_are_the_range_cut_at_the_blocks(store, start, end):
    with store.open(1) as reader:
        pieces = reader.pieces("w", "fp32", start, end)
        content = memoryview(bytearray(4 * (end - start)))
        at = 0
        for one in pieces:
            assert one.position == at
            assert one.offset // 256 == (one.offset + one.size_bytes - 1) // 256 == one.section
            reader.read_piece(one, content[at : at + one.size_bytes])
            at += one.size_bytes
        assert at == len(content)
        assert bytes(content) == VALUES[start:end].numpy().tobytes()
        with pytest.raises(ValueError, match="not within"):
            reader.pieces("w", "fp32", 0, 1001)
        with pytest.raises(ModelMismatchError):
            reader.pieces("v", "fp32", 0, 1)


def test_a_failed_read_is_told_at_the_end_and_not_before(store):
    (shard,) = store.path(1).glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with store.open(1) as reader:
        source = NodeSource(reader, ALONE)
        source.raise_failure()
        assert torch.equal(source.read("w", "fp32", 0, 4), VALUES[:4])
        source.raise_failure()
        assert source.read_whole("w", "fp32", 1000).shape == (1000,)
        assert source.read("w", "fp32", 0, 4).shape == (4,)
        with pytest.raises(DamagedCheckpointError, match="do not match their checksum"):
            source.raise_failure()


def test_a_member_that_cannot_read_still_sends_its_part(store, monkeypatch):
    sent = []

    def broadcast(part, src, group, async_op):
        sent.append((src, part.numel()))
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr("strategies.state.node_reader.dist.broadcast", broadcast)
    with store.open(1) as reader:
        whole = [(one.size_bytes) for one in reader.pieces("w", "fp32", 0, 1000)]
        shard = next(store.path(1).glob("*.safetensors"))
        shard.write_bytes(b"\0" * shard.stat().st_size)
        source = NodeSource(reader, NodeGroup(members=(4, 7), own=1, group=object()))
        source.read_whole("w", "fp32", 1000)
        source.read_whole("w", "fp32", 1000)
        assert [size for _, size in sent] == whole * 2
        assert {src for src, _ in sent} == {4, 7}
        with pytest.raises(DamagedCheckpointError):
            source.raise_failure()
